# The digest belongs to the tag and covers all architectures. Update both together, in both stages.
FROM python:3.13.15-slim-trixie@sha256:7c61056e61ac89e852de05f3dc6fa51a6dd2181797bceed46aa725dd7cb2cd3b AS build
COPY requirements-sinks.lock /
# Put the tool on the module path. Building it would need tools that no hash pins.
RUN python -m venv --without-pip /opt/provision \
 && pip --python /opt/provision/bin/python --no-cache-dir --disable-pip-version-check \
      install --require-hashes -r /requirements-sinks.lock \
 && echo /opt/provision/tool >"$(echo /opt/provision/lib/python3*/site-packages)/provision.pth" \
 && printf '%s\n' '#!/opt/provision/bin/python -I' 'import sys' 'from provisioner.cli import main' \
      'sys.exit(main())' >/opt/provision/bin/provision \
 && chmod 755 /opt/provision/bin/provision
COPY provisioner /opt/provision/tool/provisioner
COPY schemas /opt/provision/tool/schemas
COPY docs/errors.md /opt/provision/tool/docs/errors.md
RUN /opt/provision/bin/python -m compileall -q /opt/provision/tool

FROM python:3.13.15-slim-trixie@sha256:7c61056e61ac89e852de05f3dc6fa51a6dd2181797bceed46aa725dd7cb2cd3b
LABEL org.opencontainers.image.title="provision" \
      org.opencontainers.image.description="Provisions API keys of Twenty CRM workspaces from YAML manifests." \
      org.opencontainers.image.licenses="MIT"
# File sinks ask git what it ignores, and pipelines fetch with it. apt checks Debian's signatures; the version is not
# pinned, because Debian removes a version when it releases a fix.
# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install --yes --no-install-recommends git \
 && rm -rf /var/lib/apt/lists/*
COPY --from=build /opt/provision /opt/provision
COPY LICENSE /opt/provision/
ENV PATH=/opt/provision/bin:$PATH PYTHONDONTWRITEBYTECODE=1
# Otherwise git refuses to answer in a mounted checkout of another owner. The tool itself disables everything that a
# repository could make git run.
RUN useradd --uid 10001 --create-home provision \
 && install --directory --owner=provision /work \
 && git config --system safe.directory '*'
USER 10001:10001
# Mount the repository with the manifests here.
WORKDIR /work
ENTRYPOINT ["provision"]
CMD ["--help"]
