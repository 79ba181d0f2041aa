// How much a browser loads, plain and compressed. node budget.cjs FOLDER
"use strict";
const assert = require("node:assert");
const { readdirSync, readFileSync } = require("node:fs");
const { gzipSync } = require("node:zlib");

const folder = process.argv[2];
let plain = 0;
let packed = 0;
for (const file of readdirSync(folder, { recursive: true })) {
  if (!/\.(js|css|html|svg)$/.test(file)) continue;
  const text = readFileSync(`${folder}/${file}`);
  plain += text.length;
  packed += gzipSync(text).length;
}
console.log(`${plain} bytes, ${packed} compressed`);
assert(plain > 10_000, "nothing was found");
assert(plain <= 150_000 && packed <= 60_000, `${plain} bytes, ${packed} compressed`);
