from fdn_worker.cli import main

main()
