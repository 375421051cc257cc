# The hub as one static binary, without the embedded engine (it needs glibc): for use with a Kafka and a ClickHouse.
#   docker build -t welfarehub/welfarehub .
ARG GO_IMAGE=golang:1.26-bookworm
ARG BASE_IMAGE=busybox:1.37-musl

FROM ${GO_IMAGE} AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY . .
ARG VERSION=unknown
RUN CGO_ENABLED=0 go build -trimpath -tags noengine,timetzdata -ldflags "-s -w -X main.version=${VERSION}" -o /out/welfarehub ./cmd/welfarehub

# busybox for the health checks' wget, nothing else.
FROM ${BASE_IMAGE}
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY --from=build /out/welfarehub /bin/welfarehub
USER 65532:65532
WORKDIR /tmp
ENTRYPOINT ["/bin/welfarehub"]
