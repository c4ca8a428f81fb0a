// Compositions and loading orders: which network each block is from, and in which sequence the teacher's arrive.

/** The N + 1 compositions that an order (block numbers from 1) passes through. */
export function path(order) {
  const letters = order.map(() => "S");
  return [letters.join(""), ...order.map((block) => ((letters[block - 1] = "T"), letters.join("")))];
}

/** All orders of the numbers 1 .. n. */
export function permutations(n) {
  if (n === 0) return [[]];
  const insert = (rest) => Array.from({ length: n }, (_, i) => [...rest.slice(0, i), n, ...rest.slice(i)]);
  return permutations(n - 1).flatMap(insert);
}

/** The orders with names. */
export function namedOrders(n) {
  const blocks = Array.from({ length: n }, (_, i) => i + 1);
  const middle = Math.floor((n + 1) / 2);
  const outwards = [...blocks].sort((a, b) => Math.abs(a - middle) - Math.abs(b - middle) || b - a);
  return { prefix: blocks, suffix: [...blocks].reverse(), contiguous: outwards };
}

/** The names of all parts that a composition runs, in the order in which it runs them; a pair without converters has none. */
export function needed(composition, parts) {
  return [...composition].flatMap((letter, i) => {
    const turn = i > 0 && letter !== composition[i - 1] ? [`${letter === "S" ? "encoder" : "decoder"}-${i}`] : [];
    return [...turn, `${letter === "T" ? "teacher" : "student"}-${i + 1}`];
  }).filter((name) => name in parts);
}

/** Bytes of some parts. */
export const bytesOf = (names, parts) => names.reduce((sum, name) => sum + parts[name].bytes, 0);
