// The real json-joy, asked by tests and benchmarks: `node jsonjoy.cjs FOLDER < jobs.json`, FOLDER holding
// node_modules. A job: {snapshot: path | null, patches: [compact…], view: bool, quiet: bool}; an answer:
// {ms, patch_ms, view}, one JSON line each, and a last line {peak_bytes}.
'use strict';
const fs = require('fs');
const path = require('path');
const modules = path.join(process.argv[2], 'node_modules');
const {Decoder} = require(path.join(modules, 'json-joy/lib/json-crdt/codec/indexed/binary'));
const {Model} = require(path.join(modules, 'json-joy/lib/json-crdt/model/Model'));
const {decode} = require(path.join(modules, 'json-joy/lib/json-crdt-patch/codec/compact/decode'));
const {Timestamp} = require(path.join(modules, 'json-joy/lib/json-crdt-patch/clock'));
const {CborDecoder} = require(path.join(modules, '@jsonjoy.com/json-pack/lib/cbor/CborDecoder'));

// As tests/fixtures/grid/README.md spells what JSON has no form for.
const spelled = (value) => {
  if (value === undefined) return {$undefined: true};
  if (typeof value === 'bigint') return {$bigint: String(value)};
  if (typeof value === 'number') {
    if (Number.isNaN(value)) return {$float: 'nan'};
    if (!Number.isFinite(value)) return {$float: value > 0 ? 'inf' : '-inf'};
    if (Object.is(value, -0)) return {$float: '-0'};
    return value;
  }
  if (value === null || typeof value !== 'object') return value;
  if (value instanceof Timestamp) return {$ts: [value.sid, value.time]};
  if (value instanceof Uint8Array) return {$bytes: Buffer.from(value).toString('base64')};
  if (Array.isArray(value)) return Array.from(value, spelled);
  return Object.fromEntries(Object.entries(value).map(([key, one]) => [key, spelled(one)]));
};

for (const job of JSON.parse(fs.readFileSync(0, 'utf8'))) {
  const data = job.snapshot ? fs.readFileSync(job.snapshot) : null;
  let began = performance.now();
  const model = data ? new Decoder().decode(new CborDecoder().decode(data)) : Model.create();
  if (job.quiet) model.view();
  const ms = performance.now() - began;
  began = performance.now();
  for (const patch of job.patches || []) model.applyPatch(decode(patch));
  const patch_ms = performance.now() - began;
  const answer = {ms, patch_ms};
  if (!job.quiet) answer.view = spelled(model.view());
  process.stdout.write(JSON.stringify(answer) + '\n');
}
process.stdout.write(JSON.stringify({peak_bytes: process.resourceUsage().maxRSS * 1024}) + '\n');
