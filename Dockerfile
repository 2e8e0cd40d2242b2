# The digest is of the index of all architectures of this very tag: renew both together, in both stages.
FROM python:3.13.15-slim-trixie@sha256:7c61056e61ac89e852de05f3dc6fa51a6dd2181797bceed46aa725dd7cb2cd3b AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
WORKDIR /build
COPY . .
RUN python -m venv /opt/provision \
 && /opt/provision/bin/pip install --require-hashes -r requirements.lock \
 && /opt/provision/bin/pip install --no-deps . \
 && /opt/provision/bin/pip uninstall --yes pip

FROM python:3.13.15-slim-trixie@sha256:7c61056e61ac89e852de05f3dc6fa51a6dd2181797bceed46aa725dd7cb2cd3b
LABEL org.opencontainers.image.title="provision" \
      org.opencontainers.image.description="Keeps the API keys of Twenty CRM workspaces as declared in YAML manifests." \
      org.opencontainers.image.licenses="MIT"
COPY --from=build /opt/provision /opt/provision
ENV PATH=/opt/provision/bin:$PATH PYTHONDONTWRITEBYTECODE=1
RUN useradd --uid 10001 --create-home provision && install --directory --owner=provision /work
USER 10001:10001
# Where the repository with the manifests is mounted.
WORKDIR /work
ENTRYPOINT ["provision"]
CMD ["--help"]
