// Lists, streams and gets airports with @grpc/grpc-js and the contract's descriptor set alone, and prints what it got as JSON.
// PENSTOCK_* as `penstock up` writes them; DESCRIPTORS: the set; SERVICE_CONFIG: the documented one; FILTER: which rows.
import { readFileSync } from "node:fs";
import grpc from "@grpc/grpc-js";
import loader from "@grpc/proto-loader";

const { env } = process;
const definition = loader.loadFileDescriptorSetFromBuffer(readFileSync(env.DESCRIPTORS), {
  keepCase: true, longs: String, enums: String, defaults: true,
});
const { AirportService } = grpc.loadPackageDefinition(definition).aviation.v1;
const [ca, key, cert] = ["CA", "KEY", "CERT"].map((part) => readFileSync(env[`PENSTOCK_TLS_${part}`]));
const client = new AirportService(env.PENSTOCK_QUERY_ADDRESS, grpc.credentials.createSsl(ca, key, cert), {
  "grpc.service_config": env.SERVICE_CONFIG,
});
const deadline = () => ({ deadline: Date.now() + 20_000 });

function unary(method, request) {
  return new Promise((resolve, reject) => {
    client[method](request, deadline(), (error, response) => (error ? reject(error) : resolve(response)));
  });
}

async function listed() {
  const codes = [];
  let token = "";
  do {
    const page = await unary("ListAirports", { page_size: 100, page_token: token, filter: env.FILTER });
    codes.push(...page.airports.map((airport) => airport.icao));
    token = page.next_page_token;
  } while (token !== "");
  return codes;
}

// A stream that ends without END_REASON_COMPLETE was cut short: the last token resumes it. Here the client itself cuts the
// first call after one message, to show that.
async function streamed() {
  const codes = [];
  let token = "";
  let cut = true;
  for (;;) {
    const call = client.StreamAirports({ resume_token: token, filter: env.FILTER }, deadline());
    try {
      for await (const message of call) {
        codes.push(...message.airports.map((airport) => airport.icao));
        token = message.resume_token;
        if (message.status?.end_reason === "END_REASON_COMPLETE") return codes;
        if (cut) call.cancel();
        cut = false;
      }
    } catch (error) {
      if (![grpc.status.CANCELLED, grpc.status.UNAVAILABLE].includes(error.code)) throw error;
    }
  }
}

async function refused(method, request) {
  return unary(method, request).then(() => "OK", (error) => grpc.status[error.code]);
}

const first = await unary("GetAirport", { icao: "EGLL" });
console.log(JSON.stringify({
  got: first, listed: await listed(), streamed: await streamed(),
  missing: await refused("GetAirport", { icao: "ZZZZ" }),
  wrong: await refused("ListAirports", { filter: "no_such_field = 1" }),
}));
client.close();
