// Added to viser's page. Keys belong to the view, not to the button or box that was clicked last: a control that was
// used with the mouse gives the focus back. Text fields keep it, and so does whatever the Tab key reached.
addEventListener("pointerup", () => {
  setTimeout(() => {
    const active = document.activeElement;
    const writes = active && (active.isContentEditable || active.matches("textarea, input:not([type=checkbox], [type=radio], [type=range], [type=button], [type=file])"));
    if (active && active !== document.body && !writes) active.blur();
  }, 0);
});
