from quantpress.cli import main

raise SystemExit(main())
