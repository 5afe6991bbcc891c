# `make demo` and `make test` install the requirements into .venv first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
DEMO := demo
OPENKBP ?= open-kbp

.PHONY: demo openkbp test test-fast lint clean

$(INSTALLED): requirements.txt requirements-train.txt requirements-test.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --requirement requirements-test.txt
	touch $@

# Prepares phantoms, trains every stage briefly, segments the test phantoms, prints scores and draws overlays.
demo: $(INSTALLED)
	rm -rf $(DEMO)
	$(BIN)/python -m data_preprocess.prepare --source phantom --output $(DEMO)/cases
	$(BIN)/python train_backbone.py --cases $(DEMO)/cases --run-dir $(DEMO)/runs/backbone
	$(BIN)/python train_SOL.py --cases $(DEMO)/cases --run-dir $(DEMO)/runs/sol --init-from $(DEMO)/runs/backbone/best.pt
	$(BIN)/python train_backbone_heatmap.py --cases $(DEMO)/cases --run-dir $(DEMO)/runs/joint \
		--init-from $(DEMO)/runs/sol/best.pt
	$(BIN)/python train_autoencoder.py --cases $(DEMO)/cases --run-dir $(DEMO)/runs/autoencoder
	$(BIN)/python adv_train.py --cases $(DEMO)/cases --run-dir $(DEMO)/runs/focusnet \
		--init-from $(DEMO)/runs/joint/best.pt --autoencoder $(DEMO)/runs/autoencoder/best.pt
	$(BIN)/python -m data_preprocess.export --source phantom --split test --output $(DEMO)/test
	$(BIN)/python inference.py --checkpoint $(DEMO)/runs/focusnet/best.pt --input $(DEMO)/test/images \
		--output $(DEMO)/backbone --backbone-only
	$(BIN)/python inference.py --checkpoint $(DEMO)/runs/focusnet/best.pt --input $(DEMO)/test/images \
		--output $(DEMO)/focusnet --save-overlay --review
	@echo "S-Net alone:"
	$(BIN)/python evaluate.py --prediction $(DEMO)/backbone --reference $(DEMO)/test/labels --preset phantom \
		--output $(DEMO)/scores_backbone
	@echo "FocusNet (SOS-Net segments the small organs):"
	$(BIN)/python evaluate.py --prediction $(DEMO)/focusnet --reference $(DEMO)/test/labels --preset phantom \
		--output $(DEMO)/scores_focusnet
	@echo "The published model on 33 test patients (docs/model_card.md):"
	@sed -n '/^## Results on the 33/,/^## Independent/{/^|/p}' docs/model_card.md
	@echo "Look at the segmented phantoms in a browser: $(DEMO)/focusnet/index.html"
	@echo "Pictures: $(DEMO)/focusnet/*.png   Scores: $(DEMO)/scores_focusnet   Training: tensorboard --logdir $(DEMO)/runs"

# Repeats the training of weights/openkbp.pt (docs/model_card.md) from a clone of github.com/ababier/open-kbp into runs/openkbp.
openkbp: $(INSTALLED)
	$(BIN)/python -m data_preprocess.prepare --source openkbp --input $(OPENKBP) --output cases/openkbp \
		--exclude configs/openkbp_excluded.csv
	$(BIN)/python train_backbone.py --cases cases/openkbp --run-dir runs/openkbp/backbone --epochs 1
	$(BIN)/python train_backbone_heatmap.py --cases cases/openkbp --run-dir runs/openkbp/joint --epochs 14 \
		--init-from runs/openkbp/backbone/best.pt
	$(BIN)/python train_backbone_heatmap.py --cases cases/openkbp --run-dir runs/openkbp/joint2 --epochs 26 \
		--init-from runs/openkbp/joint/best.pt --set backbone_heatmap.learning_rate=7e-4
	$(BIN)/python train_autoencoder.py --cases cases/openkbp --run-dir runs/openkbp/autoencoder --epochs 6
	$(BIN)/python adv_train.py --cases cases/openkbp --run-dir runs/openkbp/focusnet --epochs 20 \
		--init-from runs/openkbp/joint2/best.pt --autoencoder runs/openkbp/autoencoder/best.pt
	$(BIN)/python -m models.publish --checkpoint runs/openkbp/focusnet/best.pt --output runs/openkbp/openkbp.pt

# A process per core. One that is done takes tests from another.
test: $(INSTALLED)
	$(BIN)/python -m pytest -q -n auto --dist worksteal

# Leaves out the tests that take seconds each.
test-fast: $(INSTALLED)
	$(BIN)/python -m pytest -q -n auto --dist worksteal -m "not slow"

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

clean:
	rm -rf $(VENV) $(DEMO)
