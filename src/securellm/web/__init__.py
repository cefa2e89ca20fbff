"""The reference edge: HTTP under Hypercorn, a Quart-Trio application, one file a front door.

Read `connection.py` and `http1.py` for the socket's side, `asgi.py` and `lane.py` for one request's, `routes.py`
for the list of endpoints. Importing this package imports nothing.
"""
