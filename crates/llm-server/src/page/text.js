// What a model writes, as nodes. Nothing of it is ever read as HTML.

/** Shows `text` in `parent`; what stands there already as it should stays, so that selections do. */
export function render(parent, text, isPlain) {
  const parts = isPlain ? [{ kind: "prose", text }] : partsOf(text);
  parts.forEach((part, i) => {
    const before = parent.children[i];
    const mark = `${part.kind} ${part.name ?? ""}`;
    if (before?.mark !== mark) {
      const node = part.kind === "code" ? codeBlock(part.name) : document.createElement("p");
      node.mark = mark;
      if (before) before.replaceWith(node);
      else parent.append(node);
    }
    const node = parent.children[i];
    if (node.text === part.text) return;
    node.text = part.text;
    if (part.kind === "code") node.querySelector("code").textContent = part.text;
    else if (isPlain) node.textContent = part.text;
    else node.replaceChildren(...inline(part.text));
  });
  while (parent.children.length > parts.length) parent.lastChild.remove();
}

/** Prose and fenced blocks of code, in order. A fence that is not closed yet goes to the end. */
function partsOf(text) {
  const parts = [];
  let prose = [];
  let block = null;
  const endProse = () => {
    const joined = prose.join("\n").replace(/^\n+|\s+$/g, "");
    if (joined) parts.push({ kind: "prose", text: joined });
    prose = [];
  };
  for (const line of text.split("\n")) {
    const fence = /^ {0,3}(`{3,}|~{3,})\s*([^`]*)$/.exec(line);
    if (block && fence && fence[1].startsWith(block.fence) && !fence[2]) {
      block = null;
    } else if (block) {
      block.text += `${line}\n`;
    } else if (fence) {
      endProse();
      block = { kind: "code", fence: fence[1], name: fence[2].trim(), text: "" };
      parts.push(block);
    } else {
      prose.push(line);
    }
  }
  endProse();
  return parts;
}

/** Text with `code` and **strong** words. */
function inline(text) {
  return text.split(/(`[^`\n]+`|\*\*[^*\n]+\*\*)/).map((piece, i) => {
    if (i % 2 === 0) return document.createTextNode(piece);
    const [name, n] = piece[0] === "`" ? ["code", 1] : ["strong", 2];
    const node = document.createElement(name);
    node.textContent = piece.slice(n, -n);
    return node;
  });
}

function codeBlock(name) {
  const block = document.createElement("div");
  block.className = "code";
  const head = document.createElement("div");
  const label = document.createElement("span");
  label.textContent = name || "code";
  const pre = document.createElement("pre");
  pre.tabIndex = 0;
  const code = document.createElement("code");
  pre.append(code);
  head.append(label, copyButton(() => code.textContent));
  block.append(head, pre);
  return block;
}

/** A button that copies what `text` returns. */
export function copyButton(text) {
  const button = document.createElement("button");
  button.type = "button";
  button.textContent = "Copy";
  button.addEventListener("click", async () => {
    let said = "Copied";
    try {
      await navigator.clipboard.writeText(text());
    } catch {
      // Browsers have no clipboard for pages that came over a network without encryption.
      said = "Not allowed here";
    }
    button.textContent = said;
    setTimeout(() => (button.textContent = "Copy"), 1500);
  });
  return button;
}
