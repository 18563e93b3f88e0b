// From a picture's RGBA to the numbers that the tower takes: resized as Pillow does, to the bit, cropped, normalised.

const FILTERS = {
  bicubic: [2, (x) => {
    const a = -0.5, d = Math.abs(x);
    if (d < 1) return ((a + 2) * d - (a + 3)) * d * d + 1;
    return d < 2 ? (((d - 5) * d + 8) * d - 4) * a : 0;
  }],
  bilinear: [1, (x) => Math.max(0, 1 - Math.abs(x))],
};
const BITS = 2 ** 22; // Pillow's fixed point

/** Return pixels of shape (3, side, side) as a Float32Array; `image` is an ImageData, `how` the space's settings. */
export function towerPixels(image, how) {
  const { width, height } = image;
  const side = how.side;
  let [toWidth, toHeight] = [side, side];
  if (how.resize === "shortest") {
    if (width <= height) toHeight = Math.trunc((side * height) / width);
    else toWidth = Math.trunc((side * width) / height);
  }
  const small = resized(image, toWidth, toHeight, how.interpolation);
  const left = halfEven((toWidth - side) / 2), top = halfEven((toHeight - side) / 2);
  const made = new Float32Array(3 * side * side);
  for (let channel = 0; channel < 3; channel++) {
    for (let y = 0; y < side; y++) {
      for (let x = 0; x < side; x++) {
        const value = small[3 * ((y + top) * toWidth + x + left) + channel] / 255;
        made[(channel * side + y) * side + x] = (value - how.mean[channel]) / how.std[channel];
      }
    }
  }
  return made;
}

/** Python's round. */
function halfEven(value) {
  const floor = Math.floor(value);
  return value - floor === 0.5 ? floor + (floor % 2) : Math.round(value);
}

/** Return RGB bytes of another size. */
export function resized({ data, width, height }, toWidth, toHeight, interpolation) {
  let rgb = new Uint8Array(3 * width * height);
  for (let from = 0, to = 0; from < data.length; from += 4) {
    rgb[to++] = data[from];
    rgb[to++] = data[from + 1];
    rgb[to++] = data[from + 2];
  }
  const [support, filter] = FILTERS[interpolation];
  if (toWidth !== width) rgb = pass(rgb, width, height, toWidth, support, filter, true);
  if (toHeight !== height) rgb = pass(rgb, toWidth, height, toHeight, support, filter, false);
  return rgb;
}

function pass(rgb, width, height, size, support, filter, across) {
  const [outWidth, outHeight] = across ? [size, height] : [width, size];
  const made = new Uint8Array(3 * outWidth * outHeight);
  const step = across ? 3 : 3 * width;
  weights(across ? width : height, size, support, filter).forEach(({ first, parts }, place) => {
    const lines = across ? height : width;
    for (let line = 0; line < lines; line++) {
      const from = across ? 3 * (line * width + first) : 3 * (first * width + line);
      const to = across ? 3 * (line * outWidth + place) : 3 * (place * outWidth + line);
      for (let channel = 0; channel < 3; channel++) {
        let sum = BITS / 2;
        for (let n = 0; n < parts.length; n++) sum += parts[n] * rgb[from + n * step + channel];
        made[to + channel] = Math.min(255, Math.max(0, Math.floor(sum / BITS)));
      }
    }
  });
  return made;
}

/** Return for each place of the result where its sources begin, and their weights in fixed point. */
function weights(from, to, support, filter) {
  const scale = from / to, wide = Math.max(scale, 1), reach = support * wide;
  return Array.from({ length: to }, (_, place) => {
    const centre = (place + 0.5) * scale;
    const first = Math.max(0, Math.trunc(centre - reach + 0.5));
    const last = Math.min(from, Math.trunc(centre + reach + 0.5));
    const parts = Array.from({ length: last - first }, (_, n) => filter((n + first - centre + 0.5) / wide));
    const total = parts.reduce((sum, one) => sum + one, 0);
    return { first, parts: parts.map((one) => Math.trunc((one / total) * BITS + (one < 0 ? -0.5 : 0.5))) };
  });
}
