// Added to viser's page.

// Keys belong to the view, not to the button, box or slider that was clicked last: what got the focus by a click or a
// tap gives it back, and a key that meets it is passed on. Text fields keep the focus until Enter or Escape, a list
// while it is open, and whatever the Tab key reached keeps it as well.
let byPointer = false;

/** Returns whether keys are meant for an element. */
function takesKeys(element) {
  if (element.isContentEditable || element.closest("[role=dialog]")) return true;
  // A list in which one can search is a text field, and has what it lists only while it is open.
  const list = element.getAttribute("aria-haspopup") === "listbox";
  if (list) return element.getAttribute("aria-expanded") === "true" || element.hasAttribute("aria-controls");
  return element.matches(
    "textarea, input:not([readonly], [type=checkbox], [type=radio], [type=range], [type=button], [type=file])",
  );
}

function giveBack() {
  const active = document.activeElement;
  if (!byPointer || !active || active === document.body || takesKeys(active)) return false;
  active.blur();
  return true;
}

addEventListener("pointerdown", () => (byPointer = true), true);
addEventListener("pointerup", () => setTimeout(giveBack, 0), true);
addEventListener(
  "keydown",
  (event) => {
    if (!event.isTrusted) return;
    if (event.key === "Tab") {
      byPointer = false;
      return;
    }
    const active = document.activeElement;
    if ((event.key === "Enter" || event.key === "Escape") && active && active.matches("input"))
      setTimeout(() => active.blur(), 0);
    else if (giveBack()) {
      event.preventDefault();
      event.stopImmediatePropagation();
      document.body.dispatchEvent(new KeyboardEvent("keydown", event));
    }
  },
  true,
);

// The server keeps where every tab was, so that a tab that is loaded anew, or whose line dropped, goes on there. The
// token goes along for browsers that keep no cookies.
const post = Worker.prototype.postMessage;
Worker.prototype.postMessage = function (message, ...rest) {
  if (message && message.type === "set_server") {
    const query = new URLSearchParams();
    const token = new URLSearchParams(location.search).get("token");
    if (token) query.set("token", token);
    try {
      let tab = sessionStorage.getItem("gaussian4d-tab");
      if (!tab) {
        tab = [...crypto.getRandomValues(new Uint8Array(12))].map((byte) => byte.toString(16).padStart(2, "0")).join("");
        sessionStorage.setItem("gaussian4d-tab", tab);
      }
      query.set("tab", tab);
    } catch {
      // Nothing may be stored here; then a tab that comes back is not known.
    }
    message = { ...message, server: `${message.server.split("#")[0]}/?${query}` };
  }
  return post.call(this, message, ...rest);
};

// In a narrow window the panel would hide most of the scene: it begins folded, and folds when a window becomes narrow. A
// tap on its head opens it. The page may build the panel more than once while it begins, so this looks on for half a
// minute after the panel is first seen, or until somebody touches the page.
const narrow = matchMedia("(max-width: 899.98px)");
let folding = 0;

function fold() {
  clearInterval(folding);
  if (!narrow.matches) return;
  let until = Infinity;
  folding = setInterval(() => {
    // On a phone, a sheet at the bottom whose head has buttons for as long as it is open; else a window of its own. Both
    // say at once that they are folded, long before a busy machine has drawn it.
    const head = [...document.querySelectorAll("div")].find(
      (element) => element.textContent.trim().startsWith("gaussian4d") && getComputedStyle(element).cursor === "pointer",
    );
    const button = document.querySelector('[aria-label="Minimize panel"]');
    if (head || button) until = Math.min(until, Date.now() + 30000);
    if (button) button.click();
    else if (head && head.querySelector("button")) head.click();
    if (Date.now() > until) clearInterval(folding);
  }, 200);
}

fold();
narrow.addEventListener("change", fold);
addEventListener("pointerdown", () => clearInterval(folding), true);
