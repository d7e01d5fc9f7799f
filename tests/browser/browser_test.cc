// The built-in page as a person meets it: three nodes, a question, a node that goes away.

#include <gtest/gtest.h>
#include <signal.h>

#include <filesystem>

#include "chromium.h"
#include "mesh_process.h"

namespace mesh::browser {
namespace {

using loopback::Node;
using loopback::ScratchDir;
using std::chrono::seconds;
using Json = nlohmann::json;

class BrowserTest : public testing::Test {
 protected:
  void SetUp() override {
    if (!Chromium::installed()) GTEST_SKIP() << "chromium is not installed (tools/packages.txt)";
    mesh_ = loopback::start_mesh(scratch_, 3,
                                 {{"--layers", "0:3"}, {"--layers", "3:6"}, {"--layers", "6:8"}});
    for (const auto& node : mesh_) ASSERT_TRUE(node->ready()) << node->process().output();
    page_ = std::make_unique<Chromium>(scratch_.path() + "/profile");
    page_->resize(1280, 860, false);
    page_->dark(false);
    page_->open(mesh_[0]->url() + "/");
    ASSERT_TRUE(page_->eventually(kReady, seconds(20))) << text("body");
  }

  std::string text(const std::string& selector) {
    return page_->evaluate("document.querySelector(" + Json(selector).dump() +
                           ")?.innerText ?? \"nothing\"");
  }
  Json texts(const std::string& selector) {
    return page_->evaluate("[...document.querySelectorAll(" + Json(selector).dump() +
                           ")].map((e) => e.innerText)");
  }
  void shoot(const std::string& name) {
    page_->screenshot(std::string(MESH_SCREENSHOTS) + "/" + name + ".png");
  }
  // Types a question, sends it with Enter and waits for the end of the answer.
  std::string ask(const std::string& question) {
    page_->evaluate("document.querySelector('#prompt').focus()");
    page_->type(question);
    page_->press_enter();
    EXPECT_TRUE(
        page_->eventually("document.querySelectorAll('.turn.assistant').length > 0 && "
                          "!document.querySelector('.live')",
                          seconds(30)));
    return page_->evaluate(
        "[...document.querySelectorAll('.turn.assistant .text')].at(-1).innerText");
  }
  // A phone widens its viewport to what sticks out, so innerWidth would always do.
  int content_width() { return page_->evaluate("document.documentElement.scrollWidth").get<int>(); }

  static constexpr const char* kReady =
      "document.querySelector('#state')?.innerText === 'ready' && "
      "document.querySelectorAll('.node').length === 3";

  ScratchDir scratch_;
  std::vector<std::unique_ptr<Node>> mesh_;
  std::unique_ptr<Chromium> page_;
};

TEST_F(BrowserTest, ShowsTheMeshAndStreamsAnAnswer) {
  EXPECT_EQ(texts("#ruler span"), Json({"0–2", "3–5", "6–7"}));
  EXPECT_EQ(texts(".node strong"), Json({"layers 0–2", "layers 3–5", "layers 6–7"}));
  EXPECT_EQ(text("#model"), "pocket");
  shoot("desktop-empty");

  // Lengths of the answer as it grows: more than one, or it did not stream.
  page_->evaluate(
      "window.seen = new Set(); new MutationObserver(() => {"
      "  const t = [...document.querySelectorAll('.turn.assistant .text')].at(-1);"
      "  if (t) seen.add(t.innerText.length);"
      "}).observe(document.querySelector('#log'), { subtree: true, childList: true,"
      " characterData: true })");
  EXPECT_NE(ask("What is 17 + 25?").find("42"), std::string::npos) << text("#log");
  EXPECT_GT(page_->evaluate("seen.size").get<int>(), 2);
  EXPECT_NE(text(".turn.assistant .stats").find("tokens/s"), std::string::npos);
  EXPECT_NE(text(".turn.assistant .stats").find("first token"), std::string::npos);
  EXPECT_EQ(text("#send"), "Send");
  ask("<img src=x onerror=\"document.title='hacked'\"> Count to 30");
  EXPECT_EQ(page_->evaluate("document.querySelectorAll('#log img').length"), 0);
  EXPECT_LE(content_width(), 1280);
  EXPECT_TRUE(
      page_->eventually("Number(document.querySelector('#speed').innerText) > 0", seconds(5)));
  shoot("desktop-light");
  page_->dark(true);
  shoot("desktop-dark");
  page_->resize(360, 740, true);
  EXPECT_LE(content_width(), 360);
  shoot("phone-dark");
  page_->dark(false);
  shoot("phone-light");
  page_->evaluate("document.querySelector('#chat').scrollIntoView()");
  shoot("phone-chat");
  EXPECT_EQ(page_->take_problems(), std::vector<std::string>{});
}

TEST_F(BrowserTest, TellsWhenANodeGoesAndWhenItsOwnNodeGoes) {
  mesh_[1]->process().signal(SIGKILL);
  ASSERT_TRUE(
      page_->eventually("document.querySelector('#state').innerText.includes('missing') && "
                        "document.querySelectorAll('.node.gap').length === 1",
                        seconds(15)))
      << text("body");
  EXPECT_NE(text("#missing").find("layers 3–5"), std::string::npos) << text("#missing");
  EXPECT_EQ(texts("#ruler span"), Json({"0–2", "3–5", "6–7"}));
  EXPECT_EQ(texts(".node.lost h3"), Json({"node1"}));
  EXPECT_EQ(page_->take_problems(), std::vector<std::string>{});
  shoot("desktop-missing");
  ask("What is 17 + 25?");
  EXPECT_NE(text(".turn .error").find("layers 3–5"), std::string::npos) << text("#log");
  shoot("desktop-refused");

  mesh_[0]->process().signal(SIGKILL);
  ASSERT_TRUE(page_->eventually("!document.querySelector('#banner').hidden", seconds(15)));
  EXPECT_NE(text("#banner").find("lost"), std::string::npos);
  shoot("desktop-unreachable");
}

}  // namespace
}  // namespace mesh::browser
