#   docker build -t shrinkd .
# The daemon, as root on the host's own controller:
#   docker run -v /sys/fs/cgroup:/sys/fs/cgroup -v /run/shrinkd:/run/shrinkd -v shrinkd:/var/lib/shrinkd --pid=host --cgroupns=host --privileged shrinkd
# or a simulated node, which needs no rights at all:
#   docker run -e SHRINKD_BACKEND=simulator --network=host shrinkd
FROM python:3.11-slim

ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore PYTHONUNBUFFERED=1

# First what changes rarely, so that it stays in its layer.
COPY requirements.lock /src/
RUN pip install --require-hashes -r /src/requirements.lock

COPY pyproject.toml README.md LICENSE /src/
COPY app /src/app
COPY migrations /src/migrations
RUN pip install --no-deps /src && rm -rf /src

VOLUME /var/lib/shrinkd
STOPSIGNAL SIGTERM
ENTRYPOINT ["shrinkd"]
CMD ["serve"]
