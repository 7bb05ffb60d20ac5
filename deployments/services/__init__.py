"""The real services that tests, benchmarks and `DEMO=real make demo` use: RabbitMQ, MinIO and a Docker Engine.

Standard library only, so that it runs before anything is installed. `python3 -m deployments.services up` installs what is
missing (saying so first), starts each on free ports of the loopback address with data of its own, and writes where they
listen to `.cache/services/services.json`; `down` ends exactly what `up` started. docs/how-to/services-for-tests.md explains it.
"""
