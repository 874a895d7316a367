addEventListener("click", (event) => {
  const button = event.target.closest("button[data-open]");
  if (!button) return;
  for (const node of button.closest(".tree").querySelectorAll("details")) node.open = button.dataset.open !== "";
});
function reveal() {
  const target = document.getElementById(location.hash.slice(1));
  for (let node = target; node; node = node.parentElement) if (node.tagName === "DETAILS") node.open = true;
  if (target) target.scrollIntoView();
}
addEventListener("hashchange", reveal);
reveal();
