// The plugin's settings, as the operator wrote them. Every value is a string.

export { get, getAll } from "wasi:config/store@0.2.0-rc.1";
