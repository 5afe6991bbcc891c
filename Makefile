# `make demo` and `make test` install the requirements into .venv first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
DEMO := demo
OPENKBP ?= open-kbp

.PHONY: demo openkbp test test-fast gpu lint clean

$(INSTALLED): requirements.txt requirements-train.txt requirements-test.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --requirement requirements-test.txt
	touch $@

# Trains every network on phantoms, and segments and scores test phantoms: see benchmarks/demo.py.
demo: $(INSTALLED)
	$(BIN)/python -m benchmarks.demo --output $(DEMO)

# Repeats the training of weights/openkbp.pt (docs/model_card.md) from a clone of github.com/ababier/open-kbp into runs/openkbp.
openkbp: $(INSTALLED)
	$(BIN)/python -m data_preprocess.prepare --source openkbp --input $(OPENKBP) --output cases/openkbp \
		--exclude configs/openkbp_excluded.csv
	$(BIN)/python train_backbone.py --cases cases/openkbp --run-dir runs/openkbp/backbone --epochs 1
	$(BIN)/python train_backbone_heatmap.py --cases cases/openkbp --run-dir runs/openkbp/joint --epochs 14 \
		--init-from runs/openkbp/backbone/best.pt
	$(BIN)/python train_backbone_heatmap.py --cases cases/openkbp --run-dir runs/openkbp/joint2 --epochs 26 \
		--init-from runs/openkbp/joint/best.pt --set backbone_heatmap.learning_rate=7e-4
	$(BIN)/python train_backbone_heatmap.py --cases cases/openkbp --run-dir runs/openkbp/joint3 --epochs 13 \
		--init-from runs/openkbp/joint2/best.pt --set backbone_heatmap.ema_decay=0.998
	$(BIN)/python train_autoencoder.py --cases cases/openkbp --run-dir runs/openkbp/autoencoder --epochs 6
	$(BIN)/python adv_train.py --cases cases/openkbp --run-dir runs/openkbp/focusnet --epochs 22 \
		--init-from runs/openkbp/joint3/best.pt --autoencoder runs/openkbp/autoencoder/best.pt
	$(BIN)/python -m models.publish --checkpoint runs/openkbp/focusnet/best.pt --output runs/openkbp/openkbp.pt

# A process per core. One that is done takes tests from another.
test: $(INSTALLED)
	$(BIN)/python -m pytest -q -n auto --dist worksteal

# Leaves out the tests that take seconds each.
test-fast: $(INSTALLED)
	$(BIN)/python -m pytest -q -n auto --dist worksteal -m "not slow"

# On a machine with a CUDA GPU: its tests, one after the other, and the benchmark.
gpu: $(INSTALLED)
	$(BIN)/python -m pytest -q -m gpu
	$(BIN)/python -m benchmarks.bench --device cuda --output bench_gpu.json

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

clean:
	rm -rf $(VENV) $(DEMO)
