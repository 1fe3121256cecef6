// Added to viser's page. Keys belong to the view, not to the button or box that was clicked last: a control that was
// used with the mouse gives the focus back. Text fields keep it, and so does whatever the Tab key reached.
addEventListener("pointerup", () => {
  setTimeout(() => {
    const active = document.activeElement;
    const writes = active && (active.isContentEditable || active.matches("textarea, input:not([type=checkbox], [type=radio], [type=range], [type=button], [type=file])"));
    if (active && active !== document.body && !writes) active.blur();
  }, 0);
});

// In a narrow window the panel would hide most of the scene: it begins folded. A tap on its head opens it. The page may
// build the panel more than once while it begins, so this looks for a while, until somebody touches the page.
if (innerWidth < 900) {
  const until = Date.now() + 30000;
  let tapped = false;
  const fold = setInterval(() => {
    const button = document.querySelector('[aria-label="Minimize panel"]');
    const head = [...document.querySelectorAll("div")].find(
      (element) => element.textContent.trim().startsWith("gaussian4d") && getComputedStyle(element).cursor === "pointer",
    );
    if (button) button.click();
    else if (head && !tapped) {
      tapped = true;
      head.click();
    }
    if (Date.now() > until) clearInterval(fold);
  }, 200);
  addEventListener("pointerdown", () => clearInterval(fold), { once: true });
}
