// Takes a JSON list of custom resources on stdin, prints a JSON list of [index, path, text] of what their schemas refuse.
// The packages are looked for in the folder that is the only argument.
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { pathToFileURL } from "node:url";

const PACKAGES = {
  "cert-manager.io": "cert-manager",
  "gateway.networking.k8s.io": "gateway-api",
  "keda.sh": "keda",
  "monitoring.coreos.com": "prometheus-operator",
};
const [, , FOLDER] = process.argv;

async function schemaOf({ apiVersion, kind }) {
  const name = PACKAGES[apiVersion.split("/")[0]];
  const file = join(FOLDER, "node_modules", "@kubernetes-models", String(name), apiVersion, `${kind}.js`);
  return name && existsSync(file) ? (await import(pathToFileURL(file)))[kind] : undefined;
}

// The schemas let unknown fields pass, an API server does not. A validator asks an object for each field that it knows, whether
// the object has it or not; what is there and was never asked for is unknown. An object of which nothing was asked is free.
function watched(value, path, unknown) {
  if (Array.isArray(value)) return value.map((item, index) => watched(item, `${path}[${index}]`, unknown));
  if (value === null || typeof value !== "object") return value;
  const asked = new Set();
  const copy = Object.fromEntries(
    Object.entries(value).map(([key, item]) => [key, watched(item, path ? `${path}.${key}` : key, unknown)]),
  );
  unknown.push(() => (asked.size ? Object.keys(value).filter((key) => !asked.has(key)).map((key) => [path, key]) : []));
  return new Proxy(copy, {
    get: (target, key) => (typeof key === "string" && asked.add(key), target[key]),
  });
}

async function refusals(object) {
  const schema = await schemaOf(object);
  if (!schema) return [["", `no schema is known for ${object.apiVersion} ${object.kind}; add its package to deploy/check`]];
  const unknown = [];
  try {
    schema.prototype.validate.call(watched(object, "", unknown));
  } catch (error) {
    if (!error.errors) throw error;
    return error.errors.map(({ instancePath, message }) => [instancePath.slice(1).replaceAll("/", "."), message]);
  }
  return unknown.flatMap((look) => look()).map(([path, key]) => [path, `unknown field ${key}`]);
}

const found = [];
for (const [index, object] of JSON.parse(readFileSync(0, "utf8")).entries()) {
  for (const [path, text] of await refusals(object)) found.push([index, path, text]);
}
console.log(JSON.stringify(found));
