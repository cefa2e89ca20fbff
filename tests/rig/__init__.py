"""The rig that the end-to-end suites stand on: a scripted provider, a raw client, the real gateway in process."""
