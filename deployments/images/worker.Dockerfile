# A site's worker: the wheel of fdn_worker and nothing of the centre. Build from the root of the checkout:
#   docker build -f deployments/images/worker.Dockerfile -t fdn-worker:0.1.0 .
# It starts tasks through the Docker socket that it is given. Whoever holds that socket is root on the host, so the user below keeps
# out accidents, not an attacker: docs/how-to/install-a-site.md says what follows, and how to run rootless.
FROM python:3.11-slim-bookworm AS wheel
WORKDIR /source
COPY fdn_worker/ ./
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheels .

FROM python:3.11-slim-bookworm
# For tasks whose source is in a Git repository.
RUN apt-get update \
 && apt-get install --yes --no-install-recommends git \
 && rm -rf /var/lib/apt/lists/*
COPY --from=wheel /wheels /wheels
COPY constraints.txt /wheels/
RUN pip install --no-cache-dir -c /wheels/constraints.txt /wheels/*.whl \
 && rm -rf /wheels
RUN useradd --uid 10001 --create-home fdn
ENV PYTHONUNBUFFERED=1
USER fdn
ENTRYPOINT ["fdn-worker"]
CMD ["start"]
