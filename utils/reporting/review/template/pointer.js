// Mouse, pen and fingers on a plane.

const NOTCH = 60;
const DOUBLE_MS = 350;

/** Connects the pointer with one plane; `actions` changes the state and draws. */
function listenToPointer(view, actions) {
  const { canvas } = view;
  const pointers = new Map();
  let drag = null;
  let pinch = null;
  let wheel = 0;

  const distance = ([a, b]) => Math.hypot(a.clientX - b.clientX, a.clientY - b.clientY);
  const center = ([a, b]) => ({ clientX: (a.clientX + b.clientX) / 2, clientY: (a.clientY + b.clientY) / 2 });

  function dragKind(event) {
    if (event.button === 1 || event.shiftKey) return "pan";
    if (event.button === 2) return "window";
    const { tool } = view.state;
    return event.pointerType === "touch" && tool === "point" ? "scroll" : tool;
  }

  canvas.addEventListener("pointerdown", (event) => {
    event.preventDefault();
    canvas.focus({ preventScroll: true });
    canvas.setPointerCapture(event.pointerId);
    pointers.set(event.pointerId, event);
    if (pointers.size === 2) {
      pinch = { length: distance([...pointers.values()]), middle: center([...pointers.values()]) };
      drag = null;
      return;
    }
    drag = { kind: dragKind(event), last: event, first: event, moved: false, rest: 0 };
    if (drag.kind === "point") actions.point(view.voxelAt(event));
  });

  canvas.addEventListener("pointermove", (event) => {
    if (event.pointerType !== "touch" || drag) actions.hover(view.voxelAt(event));
    if (!pointers.has(event.pointerId)) return;
    pointers.set(event.pointerId, event);
    if (pinch && pointers.size === 2) return void followPinch();
    if (!drag) return;
    const [dx, dy] = [event.clientX - drag.last.clientX, event.clientY - drag.last.clientY];
    drag.last = event;
    drag.moved ||= Math.hypot(event.clientX - drag.first.clientX, event.clientY - drag.first.clientY) > 6;
    followDrag(event, dx, dy);
  });

  function followDrag(event, dx, dy) {
    if (drag.kind === "point") actions.point(view.voxelAt(event));
    else if (drag.kind === "pan") actions.change(() => view.pan(dx, dy));
    else if (drag.kind === "window") actions.dragWindow(dx, -dy);
    else if (drag.moved) {
      const slicePx = Math.max(4, canvas.clientHeight / view.volumes.size[view.plane.axis]);
      drag.rest += dy / slicePx;
      const steps = Math.trunc(drag.rest);
      drag.rest -= steps;
      if (steps) actions.scroll(view, steps);
    }
  }

  function followPinch() {
    const both = [...pointers.values()];
    const [length, middle] = [distance(both), center(both)];
    actions.change(() => {
      view.pan(middle.clientX - pinch.middle.clientX, middle.clientY - pinch.middle.clientY);
      view.zoomAt(middle, length / pinch.length);
    });
    pinch = { length, middle };
  }

  function release(event) {
    pointers.delete(event.pointerId);
    if (pointers.size < 2) pinch = null;
    if (drag && drag.kind === "scroll" && !drag.moved && event.type === "pointerup") actions.point(view.voxelAt(event));
    if (!pointers.size) drag = null;
  }

  canvas.addEventListener("pointerup", release);
  canvas.addEventListener("pointercancel", release);
  canvas.addEventListener("pointerleave", () => actions.hover(null));
  canvas.addEventListener("contextmenu", (event) => event.preventDefault());
  canvas.addEventListener("dblclick", () => actions.enlarge(view));

  canvas.addEventListener(
    "wheel",
    (event) => {
      event.preventDefault();
      if (event.ctrlKey || event.metaKey) {
        actions.change(() => view.zoomAt(event, Math.exp(-event.deltaY / (event.deltaMode ? 8 : 240))));
        return;
      }
      wheel += event.deltaMode ? event.deltaY * 40 : event.deltaY;
      const steps = Math.abs(wheel) >= 3 * NOTCH ? Math.trunc(wheel / NOTCH / 2) : Math.abs(wheel) >= NOTCH ? Math.sign(wheel) : 0;
      if (!steps) return;
      wheel = 0;
      actions.scroll(view, steps);
    },
    { passive: false },
  );

  view.slider.addEventListener("input", () => actions.goTo(view, Number(view.slider.value)));
  view.frame.querySelector(".enlarge").addEventListener("click", () => actions.enlarge(view));
}
