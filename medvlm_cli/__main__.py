"""``python -m medvlm_cli``."""

from medvlm_cli.app import main

if __name__ == "__main__":
    main()
