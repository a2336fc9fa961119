// Draws the diagrams, which mdBook leaves as code blocks.
for (const code of document.querySelectorAll("code.language-mermaid")) {
  const picture = document.createElement("pre");
  picture.className = "mermaid";
  picture.textContent = code.textContent;
  code.parentElement.replaceWith(picture);
}
const isDark = ["navy", "coal", "ayu"].some((theme) => document.documentElement.classList.contains(theme));
mermaid.initialize({ startOnLoad: true, securityLevel: "strict", theme: isDark ? "dark" : "default" });
