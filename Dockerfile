# docker build -t fastgw . && docker run -p 8080:8080 fastgw
# A configuration of your own: -v "$PWD/gateway.yaml:/etc/fastgw/gateway.yaml:ro"

# For what needs more packages (`fastgw[redis]`): --build-arg EXTRAS=redis,kubernetes

FROM python:3.11-slim-bookworm AS build
ARG EXTRAS=
RUN apt-get update -qq && apt-get install -qq -y --no-install-recommends gcc libc6-dev libnghttp2-dev
COPY LICENSE README.md pyproject.toml setup.py /src/
COPY fastgw /src/fastgw
# Without pip: what is copied from here holds fastgw and what it imports. It must have come out compiled.
RUN python -m venv --without-pip /opt/fastgw \
    && pip --python /opt/fastgw/bin/python install --no-cache-dir --disable-pip-version-check "/src${EXTRAS:+[$EXTRAS]}" \
    && /opt/fastgw/bin/fastgw version | grep -x 'wire: *compiled' \
    && /opt/fastgw/bin/fastgw version | grep 'http2: *libnghttp2' \
    && /opt/fastgw/bin/python -c "import shutil, fastgw.http.http2._session; shutil.copy(next(line.split()[-1] for line in open('//proc/self/maps') if 'libnghttp2' in line), '/opt/fastgw/lib/libnghttp2.so.14')"

FROM python:3.11-slim-bookworm
COPY --from=build /opt/fastgw /opt/fastgw
COPY deploy/container.yaml /etc/fastgw/gateway.yaml
# libnghttp2 was copied there from the stage before.
ENV PATH=/opt/fastgw/bin:$PATH LD_LIBRARY_PATH=/opt/fastgw/lib
USER 10001:10001
EXPOSE 8080
# TERM finishes requests in flight, for `timeouts.drain` at the most: give `docker stop` as long (-t).
STOPSIGNAL SIGTERM
# Asks the status listener of deploy/container.yaml: a configuration of your own needs one there.
HEALTHCHECK --interval=10s --timeout=3s --start-period=5s \
    CMD ["python", "-c", "from urllib.request import urlopen; urlopen('http://127.0.0.1:9902/livez', timeout=2)"]
ENTRYPOINT ["fastgw"]
CMD ["run", "/etc/fastgw/gateway.yaml"]
