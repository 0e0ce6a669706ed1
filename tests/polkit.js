// Holds the polkit rule that is shipped against what it may let through: `node tests/polkit.js`.
"use strict";
const assert = require("assert");
const fs = require("fs");
const path = require("path");

const rule = path.join(__dirname, "../ops/systemd/polkit/50-kloros.rules");
const rules = [];
const Result = { YES: "yes", NO: "no", NOT_HANDLED: "not handled" };
new Function("polkit", fs.readFileSync(rule, "utf8"))({ Result, addRule: (each) => rules.push(each) });
assert.strictEqual(rules.length, 1);

const MANAGE = "org.freedesktop.systemd1.manage-units";
function asks(unit, verb, user = "kloros", id = MANAGE) {
    const lookup = (name) => ({ unit, verb })[name];
    return rules[0]({ id, lookup }, { user });
}

const table = [
    [asks("vllm.service", "restart"), "yes"],
    [asks("kloros-guard@chat_1.service", "restart"), "yes"],
    [asks("vllm.service", "stop"), "no"],
    [asks("vllm.service", "start"), "no"],
    [asks("vllm.service", "reload"), "yes"],
    [asks("sshd.service", "reload"), "no"],
    [asks("kloros-guard@chat_1.service", "reload"), "no"],
    [asks("vllm.service", "reset-failed"), "yes"],
    [asks("sshd.service", "reset-failed"), "no"],
    [asks("kloros-guard@chat_1.service", "reset-failed"), "no"],
    [asks("vllm.service", "set-property"), "no"],
    [asks("vllm.service", undefined), "no"],
    [asks("sshd.service", "restart"), "no"],
    [asks("vllm.service.d", "restart"), "no"],
    [asks("xvllm.service", "restart"), "no"],
    [asks("vllm*.service", "restart"), "no"],
    [asks("kloros-guard@.service", "restart"), "no"],
    [asks("kloros-guard@a/../b.service", "restart"), "no"],
    [asks("kloros-guard@a.service\nx", "restart"), "no"],
    [asks("kloros-guard@a.service", "stop"), "no"],
    [asks(undefined, "restart"), "no"],
    [asks("vllm.service", "restart", "somebody"), "not handled"],
    [asks("vllm.service", "restart", "kloros", "org.freedesktop.systemd1.manage-unit-files"), "not handled"],
];
table.forEach(([said, expected], row) => assert.strictEqual(said, expected, `row ${row}`));
console.log(`${table.length} questions answered as they should be`);
