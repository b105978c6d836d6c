# The engine with torch and Triton, for an NVIDIA GPU: several GB, most of them CUDA's libraries.
# Triton compiles a few lines of C at the first start, so the compiler stays.
FROM python:3.12-slim
RUN apt-get update && apt-get install -y --no-install-recommends gcc libc6-dev && rm -rf /var/lib/apt/lists/*
RUN useradd --create-home --uid 10001 gateway && mkdir /cache && chown gateway /cache
WORKDIR /src
COPY requirements/runtime.lock requirements/
RUN python -m venv /opt/gateway && /opt/gateway/bin/pip install --no-cache-dir --require-hashes -r requirements/runtime.lock
# torch names the Triton that fits it
RUN /opt/gateway/bin/pip install --no-cache-dir "torch==2.13.0"
COPY pyproject.toml README.md LICENSE ./
COPY gateway gateway
COPY routing_policies routing_policies
RUN /opt/gateway/bin/pip install --no-cache-dir --no-deps .
ENV PATH=/opt/gateway/bin:$PATH GATEWAY_CACHE_DIR=/cache TRITON_CACHE_DIR=/cache/triton PYTHONUNBUFFERED=1
USER gateway
EXPOSE 9000
HEALTHCHECK --interval=10s --timeout=3s --start-period=600s \
  CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:9000/health')"]
STOPSIGNAL SIGTERM
CMD ["gateway", "replica", "--model", "smollm2", "--backend", "cuda", "--host", "0.0.0.0", "--port", "9000"]
