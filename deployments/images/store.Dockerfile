# An S3 server: MinIO, built from its source, since its project gives out no images any more. The version is the one of the tests.
FROM golang:1.26-bookworm AS build
ENV CGO_ENABLED=0
RUN go install github.com/minio/minio@v0.0.0-20260212201848-7aac2a2c5b7c

FROM debian:12-slim
RUN apt-get update \
 && apt-get install --yes --no-install-recommends ca-certificates \
 && rm -rf /var/lib/apt/lists/* \
 && useradd --uid 10001 --create-home minio \
 && install --directory --owner minio /data
COPY --from=build /go/bin/minio /usr/local/bin/minio
ENV MINIO_BROWSER=off \
    MINIO_UPDATE=off
USER minio
VOLUME /data
ENTRYPOINT ["minio"]
CMD ["server", "--address", ":9000", "/data"]
