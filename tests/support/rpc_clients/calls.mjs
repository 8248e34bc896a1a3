// Calls of test.Greeter by the clients that pages have: grpc-web of the gRPC project, and connect-web with both protocols.
// Messages are google.protobuf.StringValue. Each call gives what came: {messages, header, trailer, error}.

import { createFileRegistry, fromJson, toBinary, fromBinary, create } from "@bufbuild/protobuf";
import { FileDescriptorProtoSchema, StringValueSchema, file_google_protobuf_wrappers } from "@bufbuild/protobuf/wkt";
import { createClient, Code, ConnectError } from "@connectrpc/connect";
import { createConnectTransport, createGrpcWebTransport } from "@connectrpc/connect-web";
import { GrpcWebClientBase, MethodDescriptor } from "grpc-web";

const value = { inputType: ".google.protobuf.StringValue", outputType: ".google.protobuf.StringValue" };
const file = fromJson(FileDescriptorProtoSchema, {
  name: "greeter.proto",
  package: "test",
  syntax: "proto3",
  dependency: ["google/protobuf/wrappers.proto"],
  service: [{
    name: "Greeter",
    method: [
      { name: "Echo", ...value, options: { idempotencyLevel: "NO_SIDE_EFFECTS" } },
      { name: "Count", ...value, serverStreaming: true },
      { name: "Fail", ...value },
      { name: "Wait", ...value },
    ],
  }],
});
const Greeter = createFileRegistry(file, () => file_google_protobuf_wrappers).getService("test.Greeter");

const shown = (headers) => Object.fromEntries([...headers].filter(([name]) => name.startsWith("x-")));

// `got`: called with the number of messages after each; the next one comes once its promise is kept.
window.byConnect = async (base, protocol, method, text, { get = false, timeoutMs } = {}) => {
  const make = protocol === "grpc-web" ? createGrpcWebTransport : createConnectTransport;
  const client = createClient(Greeter, make({ baseUrl: base, useBinaryFormat: true, useHttpGet: get }));
  const told = { messages: [], header: {}, trailer: {}, error: null };
  const options = {
    timeoutMs,
    headers: get ? {} : { "x-text": "of a page" },
    onHeader: (headers) => { told.header = shown(headers); },
    onTrailer: (trailers) => { told.trailer = shown(trailers); },
  };
  try {
    const asked = create(StringValueSchema, { value: text });
    if (method === "count") {
      for await (const message of client.count(asked, options)) {
        told.messages.push(message.value);
        await client.echo(create(StringValueSchema, { value: "next" }));
      }
    } else {
      told.messages.push((await client[method](asked, options)).value);
    }
  } catch (error) {
    const failed = ConnectError.from(error);
    told.error = { code: Code[failed.code], message: failed.rawMessage, trailer: shown(failed.metadata) };
  }
  return told;
};

const described = (name, kind) => new MethodDescriptor(
  `/test.Greeter/${name}`, kind, Object, Object,
  (text) => toBinary(StringValueSchema, create(StringValueSchema, { value: text })),
  (bytes) => fromBinary(StringValueSchema, bytes).value,
);

window.byGrpcWeb = (base, format, name, text) => new Promise((resolve) => {
  const client = new GrpcWebClientBase({ format });
  const told = { messages: [], trailer: {}, error: null };
  const failed = (error) => resolve({ ...told, error: { code: error.code, message: error.message } });
  if (name !== "Count") {
    client.rpcCall(base + "/test.Greeter/" + name, text, { "x-text": "of a page" }, described(name, "unary"),
      (error, message) => error ? failed(error) : resolve({ ...told, messages: [message] }));
    return;
  }
  const stream = client.serverStreaming(base + "/test.Greeter/Count", text, {}, described(name, "server_streaming"));
  stream.on("data", (message) => {
    told.messages.push(message);
    client.rpcCall(base + "/test.Greeter/Echo", "next", {}, described("Echo", "unary"), () => {});
  });
  stream.on("status", (status) => { told.trailer = status.metadata || {}; });
  stream.on("error", failed);
  stream.on("end", () => resolve(told));
});

window.ready = true;
