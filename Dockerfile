# docker build -t fastgw . && docker run -p 8080:8080 fastgw
# A configuration of your own: -v "$PWD/gateway.yaml:/etc/fastgw/gateway.yaml:ro"
#
# It has all that fastgw can use, in the versions of deploy/requirements.lock, and a list of them: /opt/fastgw/sbom.json.
# The same sources and base image make the same files. For the same image, digest by digest:
#   SOURCE_DATE_EPOCH=$(git log -1 --format=%ct) docker buildx build --output type=image,rewrite-timestamp=true .
# with the base image named by its digest (`--build-arg BASE=python@sha256:...`).

ARG BASE=python:3.11-slim-bookworm

FROM ${BASE} AS build
RUN apt-get update -qq && apt-get install -qq -y --no-install-recommends gcc libc6-dev libnghttp2-dev
COPY deploy/requirements.lock deploy/sbom.py /src/deploy/
COPY LICENSE README.md pyproject.toml setup.py /src/
COPY fastgw /src/fastgw
# Without pip: what is copied from here holds fastgw and what it imports. Bytecode that goes by digests of the sources and not by their dates is the same each time.
RUN python -m venv --without-pip /opt/fastgw \
    && pip --python /opt/fastgw/bin/python install --no-cache-dir --no-compile --disable-pip-version-check --require-hashes -r /src/deploy/requirements.lock \
    && pip --python /opt/fastgw/bin/python install --no-cache-dir --no-compile --disable-pip-version-check --no-deps /src \
    && /opt/fastgw/bin/python -m compileall -q -f -j 0 --invalidation-mode checked-hash /opt/fastgw/lib \
    && /opt/fastgw/bin/fastgw version | grep 'http2: *libnghttp2' \
    && PYTHONDONTWRITEBYTECODE=1 /opt/fastgw/bin/python -c "import shutil, fastgw.http.http2._session; shutil.copy(next(line.split()[-1] for line in open('//proc/self/maps') if 'libnghttp2' in line), '/opt/fastgw/lib/libnghttp2.so.14')" \
    && PYTHONDONTWRITEBYTECODE=1 /opt/fastgw/bin/python /src/deploy/sbom.py >/opt/fastgw/sbom.json

FROM ${BASE}
COPY --from=build /opt/fastgw /opt/fastgw
COPY deploy/container.yaml /etc/fastgw/gateway.yaml
# libnghttp2 was copied there from the stage before.
ENV PATH=/opt/fastgw/bin:$PATH LD_LIBRARY_PATH=/opt/fastgw/lib PYTHONDONTWRITEBYTECODE=1
USER 10001:10001
EXPOSE 8080
# TERM finishes requests in flight, for `timeouts.drain` at the most: give `docker stop` as long (-t).
STOPSIGNAL SIGTERM
# Asks the status listener of deploy/container.yaml: a configuration of your own needs one there.
HEALTHCHECK --interval=10s --timeout=3s --start-period=5s \
    CMD ["python", "-c", "from urllib.request import urlopen; urlopen('http://127.0.0.1:9902/livez', timeout=2)"]
ENTRYPOINT ["fastgw"]
CMD ["run", "/etc/fastgw/gateway.yaml"]
