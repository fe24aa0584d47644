from sdpose.cli import main

main()
