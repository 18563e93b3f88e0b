"use strict"; // for the page; a module is strict anyway
// What the voting widget and the voting page have in common; it goes before the scripts of either.

const GUARD_MS = 180; // after a page is placed: a double press is not a vote on the next page

function el(name, attributes = {}, ...children) {
    const node = document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) {
        if (key.startsWith("on")) node.addEventListener(key.slice(2), value);
        else if (value !== null && value !== undefined && value !== false) node.setAttribute(key, value === true ? "" : value);
    }
    node.append(...children.filter((child) => child !== null && child !== undefined));
    return node;
}

// crypto.randomUUID is there on https and localhost only, and both are served by plain http too.
function uuid4() {
    const bytes = crypto.getRandomValues(new Uint8Array(16));
    bytes[6] = (bytes[6] & 0x0f) | 0x40;
    bytes[8] = (bytes[8] & 0x3f) | 0x80;
    const hex = [...bytes].map((byte) => byte.toString(16).padStart(2, "0")).join("");
    return hex.replace(/^(.{8})(.{4})(.{4})(.{4})/, "$1-$2-$3-$4-");
}

function minutes(seconds) {
    if (seconds === null || seconds === undefined) return "";
    return seconds < 60 ? "under a minute left" : `about ${Math.round(seconds / 60)} min left`;
}
