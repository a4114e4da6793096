from quantpress.cli.main import main

raise SystemExit(main())
