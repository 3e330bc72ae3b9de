"use strict";
// A picture, or frame after frame of a video, goes to the server; boxes are drawn here, so that the threshold moves
// without asking again. Where results are no boxes, the server draws.

const at = (id) => document.getElementById(id);
const canvas = at("canvas");
const context = canvas.getContext("2d");
let model = null;
let token = "";
let shown = null; // what is on the canvas: {source, width, height, detections}
let turn = 0; // a new file ends the work on the last one

function tell(text, isFault = false) {
  at("status").textContent = text;
  at("status").className = isFault ? "fault" : "";
}

async function ask(path, options = {}) {
  const headers = { ...options.headers, ...(token ? { Authorization: `Bearer ${token}` } : {}) };
  for (;;) {
    const answer = await fetch(path, { ...options, headers });
    if (answer.status === 429 || answer.status === 503) {
      await new Promise((resolve) => setTimeout(resolve, 1000));
      continue;
    }
    if (!answer.ok) {
      const fault = new Error((await answer.json()).detail);
      fault.status = answer.status;
      throw fault;
    }
    return answer;
  }
}

async function open() {
  try {
    model = await (await ask("model")).json();
  } catch (error) {
    at("door").hidden = error.status !== 401;
    at("desk").hidden = error.status === 401;
    at("model").textContent = error.status === 401 ? "" : error.message;
    return;
  }
  at("door").hidden = true;
  at("desk").hidden = false;
  const names = model.classes.slice(0, 8).join(", ") + (model.classes.length > 8 ? ", …" : "");
  at("model").textContent = `${model.task}, ${model.classes.length} classes: ${names}`;
  if (model.lowest_confidence !== null) {
    const threshold = at("threshold");
    threshold.min = threshold.value = model.lowest_confidence;
    at("shown").textContent = Number(threshold.value).toFixed(2);
    at("controls").hidden = false;
  }
}

// The same color for the same class, far from those of its neighbors in the list.
const color = (position) => `hsl(${(position * 137.5) % 360} 85% 45%)`;

function draw() {
  if (shown === null) return;
  const threshold = Number(at("threshold").value);
  canvas.width = shown.width;
  canvas.height = shown.height;
  context.drawImage(shown.source, 0, 0, shown.width, shown.height);
  const line = Math.max(2, Math.round(Math.max(shown.width, shown.height) / 400));
  context.lineWidth = line;
  context.font = `${6 * line}px system-ui, sans-serif`;
  context.textBaseline = "bottom";
  const counts = new Map();
  for (const found of shown.detections) {
    if (found.score <= threshold && threshold > model.lowest_confidence) continue;
    counts.set(found.class, (counts.get(found.class) || 0) + 1);
    const [left, top, right, bottom] = found.box_xyxy;
    const text = `${found.class} ${found.score.toFixed(2)}`;
    context.strokeStyle = context.fillStyle = color(found.class_index);
    context.strokeRect(left, top, right - left, bottom - top);
    const foot = Math.max(top, 8 * line);
    context.fillRect(left - line / 2, foot - 8 * line, context.measureText(text).width + 2 * line, 8 * line);
    context.fillStyle = "white";
    context.fillText(text, left + line / 2, foot - line / 2);
  }
  list(counts);
}

function list(counts) {
  const rows = [...counts].sort((a, b) => b[1] - a[1]).map(([name, count]) => {
    const row = document.createElement("tr");
    for (const text of [name, count]) row.appendChild(document.createElement("td")).textContent = text;
    return row;
  });
  at("found").hidden = rows.length === 0;
  at("found").tBodies[0].replaceChildren(...rows);
}

async function find(picture, source, width, height, now) {
  const options = { method: "POST", body: picture, headers: { "Content-Type": "application/octet-stream" } };
  const begin = performance.now();
  if (model.lowest_confidence === null) {
    source = await createImageBitmap(await (await ask("draw", options)).blob());
    if (now !== turn) return;
    shown = { source, width: source.width, height: source.height, detections: [] };
  } else {
    const [image] = (await (await ask("predict", options)).json()).images;
    if (now !== turn) return;
    shown = { source, width, height, detections: image.detections };
  }
  at("stage").hidden = false;
  draw();
  tell(`${Math.round(performance.now() - begin)} ms`);
}

async function usePicture(file, now) {
  const source = await createImageBitmap(file);
  await find(file, source, source.width, source.height, now);
}

async function useVideo(file, now) {
  const video = document.createElement("video");
  video.muted = true;
  video.src = URL.createObjectURL(file);
  try {
    await new Promise((resolve, reject) => {
      video.onloadeddata = resolve;
      video.onerror = () => reject(new Error("this browser cannot read the video"));
    });
    const frame = document.createElement("canvas");
    frame.width = video.videoWidth;
    frame.height = video.videoHeight;
    for (let number = 0, time = 0; now === turn && time < video.duration; number += 1, time += 1 / 10) {
      await new Promise((resolve) => {
        video.onseeked = resolve;
        video.currentTime = time;
      });
      frame.getContext("2d").drawImage(video, 0, 0);
      const picture = await new Promise((resolve) => frame.toBlob(resolve, "image/jpeg", 0.92));
      await find(picture, frame, frame.width, frame.height, now);
      if (now === turn) tell(`${time.toFixed(1)} of ${video.duration.toFixed(1)} s, ten frames a second`);
    }
  } finally {
    URL.revokeObjectURL(video.src);
  }
}

async function use(file) {
  if (!file) return;
  turn += 1;
  const now = turn;
  tell("…");
  try {
    await (file.type.startsWith("video/") ? useVideo(file, now) : usePicture(file, now));
  } catch (error) {
    if (now === turn) tell(error.message, true);
  }
}

at("file").addEventListener("change", (event) => use(event.target.files[0]));
at("threshold").addEventListener("input", () => {
  at("shown").textContent = Number(at("threshold").value).toFixed(2);
  draw();
});
at("door").addEventListener("submit", (event) => {
  event.preventDefault();
  token = at("token").value;
  open();
});
for (const name of ["dragenter", "dragover", "dragleave", "drop"]) {
  document.addEventListener(name, (event) => {
    event.preventDefault();
    at("drop").classList.toggle("over", name === "dragenter" || name === "dragover");
    if (name === "drop") use(event.dataTransfer.files[0]);
  });
}
open();
