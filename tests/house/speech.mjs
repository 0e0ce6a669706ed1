// A speech server of the OpenAI dialect over espeak-ng, on the port that it is given. With OMP_WAIT_POLICY=ACTIVE it has lost its voice:
// it answers faster than ever, with silence.
import { spawn } from "node:child_process";
import { createServer } from "node:http";

const SILENCE = Buffer.concat([
    Buffer.from("RIFF\0\0\0\0WAVEfmt \x10\0\0\0\x01\0\x01\0\x22\x56\0\0\x44\xac\0\0\x02\0\x10\0data\0\0\0\0", "latin1"),
    Buffer.alloc(44100),
]);

createServer((request, response) => {
    let body = "";
    request.on("data", (piece) => (body += piece));
    request.on("end", () => {
        const { input } = JSON.parse(body);
        if (process.env.OMP_WAIT_POLICY === "ACTIVE") {
            response.end(SILENCE);
            return;
        }
        spawn("espeak-ng", ["--stdout", input], { stdio: ["ignore", "pipe", "ignore"] }).stdout.pipe(response);
    });
}).listen(Number(process.argv[2]), "127.0.0.1");
