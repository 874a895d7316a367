// Numbers as people read them.

export const count = (number) => (number < 1e6 ? Math.round(number).toLocaleString("en-US") : `${(number / 1e6).toFixed(1)} M`);
export const plural = (number, noun) => `${count(number)} ${noun}${number === 1 ? "" : "s"}`;

export function seconds(number) {
  if (number < 10) return `${number.toFixed(1)} s`;
  if (number < 120) return `${Math.round(number)} s`;
  return number < 7200 ? `${Math.round(number / 60)} min` : `${(number / 3600).toFixed(1)} h`;
}

export function money(dollars) {
  if (dollars === 0) return "$0";
  if (dollars < 0.0001) return "< $0.0001";
  return `$${dollars < 0.1 ? Number(dollars.toPrecision(2)) : dollars.toFixed(2)}`;
}

export function ago(time) {
  const minutes = Math.round((Date.now() - time) / 60000);
  if (minutes < 1) return "just now";
  if (minutes < 60) return `${minutes} min ago`;
  if (minutes < 1440) return `${Math.round(minutes / 60)} h ago`;
  return new Date(time).toLocaleDateString();
}

/** The text on one line of at most `width` characters. */
export function short(text, width) {
  const line = String(text).split(/\s+/).join(" ").trim();
  return line.length <= width ? line : `${line.slice(0, width - 1)}…`;
}

/** `3`, or `1 to 3`. */
export const range = (fewest, most) => (fewest === most ? count(most) : `${count(fewest)} to ${count(most)}`);
