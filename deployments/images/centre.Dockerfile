# The centre: commands `fem` and `prefect`. Build from the root of the checkout:
#   docker build -f deployments/images/centre.Dockerfile -t fem-centre:0.1.0 .
FROM python:3.11-slim-bookworm
# Prefect looks at Git when it deploys.
RUN apt-get update \
 && apt-get install --yes --no-install-recommends git \
 && rm -rf /var/lib/apt/lists/*
RUN useradd --uid 10001 --create-home --home-dir /var/lib/fem fem
WORKDIR /opt/fem
COPY . .
# In place: the centre is an application, and no wheel carries names such as flows or storage.
RUN pip install --no-cache-dir -c constraints.txt -e '.[postgresql]'
ENV FEM_HOME=/var/lib/fem \
    PREFECT_HOME=/var/lib/fem/prefect \
    PREFECT_SERVER_ANALYTICS_ENABLED=false \
    DO_NOT_TRACK=1 \
    PYTHONUNBUFFERED=1
USER fem
ENTRYPOINT ["fem"]
CMD ["--help"]
