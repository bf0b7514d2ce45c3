"""``medvlm`` and ``python -m medvlm_cli``: imports nothing before it can be interrupted in peace."""


def main() -> None:
    """Run the command line; Ctrl-C has its exit status also while modules load, before the work and after it."""
    try:
        from medvlm_cli.app import main as run

        run()
    except KeyboardInterrupt:
        raise SystemExit(130) from None


if __name__ == "__main__":
    main()
