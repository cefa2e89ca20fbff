{
  # Checked with `nix-instantiate --parse` only, where Nix is at hand. Not run: building it, `nix flake check`, a lock file.
  description = "SecureLLM Bridge: a gateway in front of language-model providers";

  inputs.nixpkgs.url = "github:NixOS/nixpkgs/nixos-unstable";

  outputs =
    { self, nixpkgs }:
    let
      systems = [
        "x86_64-linux"
        "aarch64-linux"
      ];
      forAllSystems = f: nixpkgs.lib.genAttrs systems (system: f nixpkgs.legacyPackages.${system});
    in
    {
      # Use it from the repository's root: nix build 'git+file://…?dir=nix'. A path:./nix flake cannot see its parent.
      packages = forAllSystems (pkgs: rec {
        securellm-bridge = pkgs.python313Packages.buildPythonApplication {
          pname = "securellm-bridge";
          version = "0.1.0";
          pyproject = true;
          src = ./..;

          build-system = with pkgs.python313Packages; [
            cython
            setuptools
          ];
          # The versions are nixpkgs', not those of requirements/serve.lock.
          pythonRelaxDeps = true;
          dependencies = with pkgs.python313Packages; [
            alembic
            click
            cryptography
            h11
            hiredis
            httpx
            hypercorn
            msgspec
            prometheus-client
            quart
            quart-trio
            redis
            sqlalchemy
            trio
            truststore
            werkzeug
          ];

          env.SECURELLM_REQUIRE_EXTENSIONS = "1";
          pythonImportsCheck = [ "securellm" ];
          # The tests start servers on loopback and read recordings beside the repository: scripts/test runs them.
          doCheck = false;

          meta = {
            description = "A gateway in front of language-model providers";
            license = pkgs.lib.licenses.mit;
            mainProgram = "securellm";
            platforms = systems;
          };
        };
        default = securellm-bridge;
      });
    };
}
