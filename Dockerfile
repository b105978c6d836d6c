# A small image with the gateway and its CPU replica; no model inside: `gateway model pull smollm2`
# fetches it into the cache volume at the first start.
FROM python:3.12-slim AS build
WORKDIR /src
COPY requirements/runtime.lock requirements/
RUN python -m venv /opt/gateway && /opt/gateway/bin/pip install --no-cache-dir --require-hashes -r requirements/runtime.lock
COPY pyproject.toml README.md LICENSE ./
COPY gateway gateway
COPY routing_policies routing_policies
RUN /opt/gateway/bin/pip install --no-cache-dir --no-deps .

FROM python:3.12-slim
RUN useradd --create-home --uid 10001 gateway && mkdir /cache /ledger && chown gateway /cache /ledger
COPY --from=build /opt/gateway /opt/gateway
ENV PATH=/opt/gateway/bin:$PATH GATEWAY_CACHE_DIR=/cache PYTHONUNBUFFERED=1
USER gateway
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=120s \
  CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/health')"]
CMD ["gateway", "serve", "--config", "/etc/gateway/config.yaml"]
