# For a CPU:
#   docker build -t metadrop .
#   docker run --rm -v "$PWD/results:/metadrop/results" metadrop                        make demo
#   docker run --rm -v "$PWD/data:/metadrop/data" -v "$PWD/results:/metadrop/results" metadrop .venv/bin/python main.py ...
FROM python:3.12-slim
RUN apt-get update && apt-get install --yes --no-install-recommends make && rm -rf /var/lib/apt/lists/*
WORKDIR /metadrop
# The packages come first, so that a change of the program does not install them again.
COPY Makefile requirements.txt ./
RUN make .venv
COPY . .
CMD ["make", "demo"]
