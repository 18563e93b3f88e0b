// From words to token ids, as the bundle's Python tokenizer makes them; the tables come from that tokenizer itself.

/** Return a function from a text to its token ids: `settings` is words.json, which `kit space build --static` wrote. */
export function makeTokenizer(settings) {
  const clean = cleaner(settings.clean);
  const encode = settings.kind === "wordpiece" ? wordPiece(settings) : bytePairs(settings);
  return (text) => encode(clean(text));
}

// --- What open_clip does to every text first: ftfy's repairs, HTML's entities, white space -------------------------
// Left out is ftfy's repair of text that was read in a wrong encoding ("cafÃ©"): it takes the words as they are.

const SPACE = "\\t-\\r\\x1c-\\x20\\x85\\xa0\\u1680\\u2000-\\u200a\\u2028\\u2029\\u202f\\u205f\\u3000"; // Python's
const SPACES = new RegExp(`[${SPACE}]+`, "gu");
const windows1252 = new TextDecoder("windows-1252");
const fromByte = (byte) => windows1252.decode(Uint8Array.of(byte));

function cleaner({ named, html5, replaced, controls }) {
  const unwanted = new Set(controls);
  const swap = (text, table) => Array.from(text, (one) => table[one] ?? one).join("");

  const repair = (line, entities) => {
    for (let text = line, before; ; ) {
      before = text;
      if (entities) text = text.replace(/&#?[0-9A-Za-z]{1,24};/g, (one) => ftfyEntity(one));
      text = text.replace(/[\x80-\x9f]/g, (one) => fromByte(one.charCodeAt(0)));
      text = swap(text, replaced).replace(/\r\n?|[\u2028\u2029\x85]/g, "\n").toWellFormed();
      text = text.replace(/\x1b\[[\d;]*[a-zA-Z]/g, "");
      text = Array.from(text).filter((one) => !unwanted.has(one)).join("").normalize("NFC");
      if (text === before) return text;
    }
  };

  const ftfyEntity = (one) => {
    if (Object.hasOwn(named, one)) return named[one];
    if (!one.startsWith("&#")) return one;
    const character = unescape(one);
    return character.includes(";") ? one : character;
  };

  const unescape = (text) =>
    text.replace(/&(#[0-9]+;?|#[xX][0-9a-fA-F]+;?|[^\t\n\f <&#;]{1,32};?)/g, (whole, inside) => {
      if (inside.startsWith("#")) return numeric(inside);
      if (Object.hasOwn(html5, inside)) return html5[inside];
      for (let length = inside.length - 1; length > 1; length--) {
        const begin = inside.slice(0, length);
        if (Object.hasOwn(html5, begin)) return html5[begin] + inside.slice(length);
      }
      return whole;
    });

  return (text) => {
    let entities = true; // until a line holds "<": from there on it may be HTML, and is left alone
    const lines = text.split(/(?<=\n)/).map((line) => repair(line, (entities &&= !line.includes("<"))));
    return unescape(unescape(lines.join(""))).replace(SPACES, " ").replace(/^ | $/g, "");
  };
}

function numeric(inside) {
  const digits = inside.replace(";", "").slice(1);
  const code = /^[xX]/.test(digits) ? parseInt(digits.slice(1), 16) : parseInt(digits, 10);
  if (code === 0 || code > 0x10ffff || (code >= 0xd800 && code <= 0xdfff)) return "\ufffd";
  if (code === 0x0d) return "\r";
  if (code >= 0x80 && code <= 0x9f) return fromByte(code);
  const invalid =
    (code >= 1 && code <= 8) || (code >= 0xe && code <= 0x1f) || code === 0x7f || code === 0xb ||
    (code >= 0xfdd0 && code <= 0xfdef) || (code & 0xfffe) === 0xfffe;
  return invalid ? "" : String.fromCodePoint(code);
}

// --- BERT's WordPiece ----------------------------------------------------------------------------------------------

function wordPiece(settings) {
  const ids = new Map(settings.vocabulary.split("\n").map((token, id) => [token, id]));
  const [dropped, blank, apart, punctuation] = ["dropped", "blank", "apart", "punctuation"].map((name) =>
    inRanges(settings[name]),
  );
  const special = new RegExp(`(${settings.special.map(quoted).join("|")})`);

  // Each character alone, as the Rust library does, whose tables are older than a browser's.
  const normalised = (text) => {
    let made = "";
    for (const one of text) {
      const code = one.codePointAt(0);
      if (blank(code)) {
        made += " ";
        continue;
      }
      let kept = "";
      for (const part of settings.strips ? one.normalize("NFD") : one) {
        if (!dropped(part.codePointAt(0))) kept += settings.lower ? part.toLowerCase() : part;
      }
      made += apart(code) ? ` ${kept} ` : kept;
    }
    return made;
  };

  const split = (text) => {
    const words = [];
    for (const run of text.split(" ")) {
      let word = [];
      for (const one of run) {
        if (!punctuation(one.codePointAt(0))) word.push(one);
        else {
          words.push(word, [one]);
          word = [];
        }
      }
      words.push(word);
    }
    return words.filter((word) => word.length);
  };

  const pieces = (word) => {
    const found = [];
    if (word.length > settings.longest) return [settings.unknown];
    for (let start = 0, end; start < word.length; start = end) {
      let id;
      for (end = word.length; end > start; end--) {
        id = ids.get((start ? settings.prefix : "") + word.slice(start, end).join(""));
        if (id !== undefined) break;
      }
      if (id === undefined) return [settings.unknown];
      found.push(id);
    }
    return found;
  };

  return (text) => {
    const found = text
      .split(special)
      .flatMap((part, place) => (place % 2 ? [ids.get(part)] : split(normalised(part)).flatMap(pieces)));
    return [...settings.begin, ...found.slice(0, settings.context - settings.begin.length - settings.end.length), ...settings.end];
  };
}

const quoted = (text) => text.replace(/[.*+?^${}()|[\]\\]/g, "\\$&");

/** Return whether a code point lies in one of some ranges: `flat` holds first, last, first, last … in order. */
function inRanges(flat) {
  return (code) => {
    let low = 0;
    for (let high = flat.length / 2; low < high; ) {
      const middle = (low + high) >> 1;
      if (flat[2 * middle + 1] < code) low = middle + 1;
      else high = middle;
    }
    return 2 * low < flat.length && flat[2 * low] <= code;
  };
}

// --- CLIP's byte pairs, as open_clip has them ------------------------------------------------------------------------

function bytePairs(settings) {
  const letters = byteLetters();
  const merges = settings.merges.split("\n");
  const ranks = new Map(merges.map((pair, rank) => [pair, rank]));
  const tokens = [...letters.order, ...letters.order.map((one) => `${one}</w>`), ...merges.map((pair) => pair.replace(" ", ""))];
  const ids = new Map(tokens.map((token, id) => [token, id]));
  const [start, end] = settings.special;
  const [letter, number] = [settings.letters, settings.numbers].map(inClass); // Python's, whose Unicode is another
  const WORD = new RegExp(`${quoted(start)}|${quoted(end)}|'s|'t|'re|'ve|'m|'ll|'d|[${letter}]+|[${number}]|[^ ${letter}${number}]+`, "gu");
  ids.set(start, tokens.length).set(end, tokens.length + 1);

  const merged = (word) => {
    let parts = Array.from(new TextEncoder().encode(word), (byte) => letters.of[byte]);
    parts.push(`${parts.pop()}</w>`);
    for (;;) {
      let best = Infinity, first, second;
      for (let place = 0; place + 1 < parts.length; place++) {
        const rank = ranks.get(`${parts[place]} ${parts[place + 1]}`);
        if (rank < best) [best, first, second] = [rank, parts[place], parts[place + 1]];
      }
      if (best === Infinity) return parts.map((part) => ids.get(part));
      const next = [];
      for (let place = 0; place < parts.length; place++) {
        if (parts[place] === first && parts[place + 1] === second) {
          next.push(first + second);
          place++;
        } else next.push(parts[place]);
      }
      parts = next;
    }
  };

  return (text) => {
    const words = text.toLowerCase().match(WORD) ?? [];
    const found = words.flatMap((word) => (word === start || word === end ? [ids.get(word)] : merged(word)));
    const whole = [ids.get(start), ...found.slice(0, settings.context - 2), ids.get(end)];
    return [...whole, ...Array(settings.context - whole.length).fill(0)];
  };
}

/** Return ranges, first, last, first, last …, as the inside of a regular expression's class. */
function inClass(flat) {
  return flat.map((code, place) => `${place % 2 ? "-" : ""}\\u{${code.toString(16)}}`).join("");
}

/** GPT-2's letters for bytes: printable ones stand for themselves, the others for letters from U+0100 on. */
function byteLetters() {
  const plain = [[33, 126], [161, 172], [174, 255]].flatMap(([low, high]) => Array.from({ length: high - low + 1 }, (_, n) => low + n));
  const others = Array.from({ length: 256 }, (_, byte) => byte).filter((byte) => !plain.includes(byte));
  const of = {};
  plain.forEach((byte) => (of[byte] = String.fromCodePoint(byte)));
  others.forEach((byte, n) => (of[byte] = String.fromCodePoint(256 + n)));
  return { of, order: [...plain, ...others].map((byte) => of[byte]) };
}
