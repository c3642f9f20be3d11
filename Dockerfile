#   docker build -t shrinkd .
# The daemon, as root on the host's own controller:
#   docker run -v /sys/fs/cgroup:/sys/fs/cgroup -v /run/shrinkd:/run/shrinkd -v shrinkd:/var/lib/shrinkd --pid=host --cgroupns=host --privileged shrinkd
# or a simulated node, which needs no rights at all:
#   docker run -e SHRINKD_BACKEND=simulator --network=host shrinkd
FROM python:3.11-slim AS build

ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore

# Without build isolation: pip would fetch a build backend that no hash names.
COPY requirements-build.lock /src/
RUN pip install --require-hashes -r /src/requirements-build.lock
COPY pyproject.toml README.md LICENSE /src/
COPY app /src/app
COPY migrations /src/migrations
RUN pip wheel --no-deps --no-build-isolation --wheel-dir /dist /src

FROM python:3.11-slim

ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore PYTHONUNBUFFERED=1

# First what changes rarely, so that it stays in its layer.
COPY requirements.lock /src/
RUN pip install --require-hashes -r /src/requirements.lock
COPY --from=build /dist /dist
RUN pip install --no-deps --no-index /dist/*.whl && rm -rf /src /dist

VOLUME /var/lib/shrinkd
STOPSIGNAL SIGTERM
ENTRYPOINT ["shrinkd"]
CMD ["serve"]
