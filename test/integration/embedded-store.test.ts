import { EmbeddedHome } from "../support/embedded-home.ts";
import { storeSuite } from "../support/store-suite.ts";

storeSuite("embedded store", async () => new EmbeddedHome());
