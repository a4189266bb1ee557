// `sluice chat`: one answer from a pipe, and conversations in a pseudo-terminal.
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <algorithm>
#include <csignal>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>

#include "support/run_program.h"
#include "support/temporary_directory.h"
#include "support/tiny_chat_model.h"

namespace sluice::testing {
namespace {

constexpr const char* kCtrlC = "\x03";
constexpr const char* kCtrlD = "\x04";
constexpr const char* kTiming = " t/s, generated ";

Arguments chat_arguments(const Arguments& more) {
  Arguments arguments{"chat", "-m", tiny_chat_model().string(), "-c", "512", "--top-k", "20", "-t", "2"};
  arguments.insert(arguments.end(), more.begin(), more.end());
  return arguments;
}

TEST(ChatOnce, AnswersStandardInputWithNothingButTheAnswer) {
  ProgramOptions piped;
  piped.input = "the inner tether\n";
  const ProgramResult answer = run_sluice(chat_arguments({"-n", "20", "-s", "3"}), piped);
  ASSERT_EQ(answer.exit_code, 0) << answer.err;
  EXPECT_FALSE(answer.out.empty());
  EXPECT_EQ(answer.out.find("tok"), std::string::npos);
  EXPECT_EQ(answer.out.find('\x1b'), std::string::npos);
  // One line of figures: BOS, user marker, prompt, assistant marker, end of thinking.
  EXPECT_TRUE(answer.err.starts_with("prompt ")) << answer.err;
  EXPECT_EQ(std::count(answer.err.begin(), answer.err.end(), '\n'), 1) << answer.err;
  EXPECT_NE(answer.err.find(" generated 20 tok "), std::string::npos) << answer.err;
  const ProgramResult flagged = run_sluice(chat_arguments({"-n", "20", "-s", "3", "-p", "the inner tether"}));
  EXPECT_EQ(flagged.out, answer.out);
}

TEST(ChatOnce, SystemMessageAndSeedMatter) {
  const auto answer = [](const Arguments& more) { return run_sluice(chat_arguments(more)).out; };
  const std::string plain = answer({"-n", "20", "-s", "3", "-p", "an"});
  EXPECT_EQ(plain, answer({"-n", "20", "-s", "3", "-p", "an"}));
  EXPECT_NE(plain, answer({"-n", "20", "-s", "4", "-p", "an"}));
  EXPECT_NE(plain, answer({"-n", "20", "-s", "3", "-p", "an", "-sys", "Be brief."}));
}

TEST(ChatOnce, ReasoningStaysOffStandardOutput) {
  // The random model never closes its reasoning within a few greedy tokens; so all of it is reasoning.
  const ProgramResult shown = run_sluice(chat_arguments({"--think", "-n", "6", "--temp", "0", "-p", "in"}));
  EXPECT_EQ(shown.exit_code, 0);
  EXPECT_EQ(shown.out, "");
  const ProgramResult hidden =
      run_sluice(chat_arguments({"--think", "--hide-thinking", "-n", "6", "--temp", "0", "-p", "in"}));
  EXPECT_EQ(hidden.out, "");
  EXPECT_TRUE(hidden.err.starts_with("prompt ")) << hidden.err;
  EXPECT_GT(shown.err.size(), hidden.err.size());
}

TEST(ChatOnce, ErrorsAreOneLine) {
  for (const auto& [arguments, part] : std::vector<std::pair<Arguments, std::string>>{
           {{"chat", "-m", "/nonexistent.gguf", "-p", "a"}, "/nonexistent.gguf"},
           {chat_arguments({"-p", "a\xC3"}), "UTF-8"},
           {chat_arguments({"-p", ""}), "prompt"},
           {chat_arguments({"-p", "a", "-sys", "\x80"}), "UTF-8"},
           {chat_arguments({"-c", "40", "-p", std::string(90, 'x')}), "40"}}) {
    const ProgramResult result = run_sluice(arguments);
    EXPECT_EQ(result.exit_code, 1);
    EXPECT_EQ(result.out, "");
    EXPECT_EQ(std::count(result.err.begin(), result.err.end(), '\n'), 1) << result.err;
    EXPECT_NE(result.err.find(part), std::string::npos) << result.err;
  }
}

class ChatInTerminal : public ::testing::Test {
 protected:
  Arguments arguments_ = chat_arguments({"-n", "10", "-s", "3"});
  TemporaryDirectory directory_;
  Environment environment_{{"XDG_STATE_HOME", (directory_ / "state").string()},
                           {"TERM", "xterm"},
                           {"NO_COLOR", "1"},
                           {"LC_ALL", "C.UTF-8"}};
};

TEST_F(ChatInTerminal, Conversation) {
  TerminalProgram chat(arguments_, environment_);
  ASSERT_TRUE(chat.wait_for("Tiny Test")) << chat.shown();
  ASSERT_TRUE(chat.wait_for("> "));
  chat.answer_prompt("/help\n");
  EXPECT_TRUE(chat.wait_for("/regen")) << chat.shown();
  chat.answer_prompt("the first\n");
  EXPECT_TRUE(chat.wait_for("generated 10 tok")) << chat.shown();
  chat.answer_prompt("the second\n");
  EXPECT_TRUE(chat.wait_for("generated 10 tok")) << chat.shown();
  chat.answer_prompt("/regen\n");
  EXPECT_TRUE(chat.wait_for(kTiming)) << chat.shown();
  chat.answer_prompt("/undo\n");
  EXPECT_TRUE(chat.wait_for("Took back")) << chat.shown();
  chat.answer_prompt("/undo\n");
  EXPECT_TRUE(chat.wait_for("Took back")) << chat.shown();
  chat.answer_prompt("/undo\n");
  EXPECT_TRUE(chat.wait_for("error: /undo")) << chat.shown();
  chat.answer_prompt("/nonsense\n");
  EXPECT_TRUE(chat.wait_for("/help lists them")) << chat.shown();
  chat.answer_prompt("/exit\n");
  EXPECT_EQ(chat.wait_for_exit(), 0) << chat.shown();
}

TEST_F(ChatInTerminal, NextTurnReusesTheCache) {
  TerminalProgram chat(arguments_, environment_);
  ASSERT_TRUE(chat.wait_for("> "));
  chat.answer_prompt("the\n");
  ASSERT_TRUE(chat.wait_for("prompt 5 tok (0 cached)")) << chat.shown();
  chat.answer_prompt("/regen\n");
  ASSERT_TRUE(chat.wait_for("prompt 5 tok (4 cached)")) << chat.shown();
  chat.answer_prompt(kCtrlD);
  EXPECT_EQ(chat.wait_for_exit(), 0) << chat.shown();
}

TEST_F(ChatInTerminal, BlockIsOneMessage) {
  TerminalProgram chat(arguments_, environment_);
  ASSERT_TRUE(chat.wait_for("> "));
  chat.answer_prompt("\"\"\"a\n");
  ASSERT_TRUE(chat.wait_for(". "));
  chat.answer_prompt("/exit\"\"\"\n");
  // BOS, user, "a", "\n", "/exit" byte by byte, assistant, end of thinking.
  EXPECT_TRUE(chat.wait_for("prompt 11 tok")) << chat.shown();
  chat.answer_prompt("/bye\n");
  EXPECT_EQ(chat.wait_for_exit(), 0) << chat.shown();
}

TEST_F(ChatInTerminal, ControlCStopsTheAnswerAndThenLeaves) {
  const Arguments endless{"chat", "-m", tiny_chat_model().string(), "--temp", "0", "-t", "2"};
  TerminalProgram chat(endless, environment_);
  ASSERT_TRUE(chat.wait_for("> ")) << chat.shown();
  chat.answer_prompt("the\n");
  ASSERT_TRUE(chat.wait_for("the\r\n"));
  ASSERT_FALSE(chat.wait_for(kTiming, std::chrono::seconds(1))) << chat.shown();
  chat.type(kCtrlC);
  EXPECT_TRUE(chat.wait_for("Stopped.")) << chat.shown();
  EXPECT_TRUE(chat.wait_for("> ")) << chat.shown();
  chat.answer_prompt(kCtrlC);
  EXPECT_TRUE(chat.wait_for("Ctrl-C again leaves.")) << chat.shown();
  chat.answer_prompt(kCtrlC);
  EXPECT_EQ(chat.wait_for_exit(), 130) << chat.shown();
}

TEST_F(ChatInTerminal, TerminationEndsTheAnswerAndTheProgram) {
  const Arguments endless{"chat", "-m", tiny_chat_model().string(), "--temp", "0", "-t", "2"};
  TerminalProgram chat(endless, environment_);
  ASSERT_TRUE(chat.wait_for("> ")) << chat.shown();
  chat.answer_prompt("the\n");
  ASSERT_TRUE(chat.wait_for("the\r\n"));
  ASSERT_FALSE(chat.wait_for(kTiming, std::chrono::seconds(1))) << chat.shown();
  chat.send(SIGTERM);
  EXPECT_TRUE(chat.wait_for("Stopped.")) << chat.shown();
  EXPECT_EQ(chat.wait_for_exit(), 130) << chat.shown();
}

// The file has a message that takes far longer to read than any test waits.
TEST_F(ChatInTerminal, ControlCWhileItReadsAMessageKeepsTheConversationAndItsFile) {
  const std::string path = (directory_ / "talk").string();
  const nlohmann::json talk{{"sluice_chat", 1},
                            {"messages",
                             {{{"role", "user"}, {"content", "the"}},
                              {{"role", "assistant"}, {"content", "in"}},
                              {{"role", "user"}, {"content", std::string(150'000, 'x')}}}}};
  std::ofstream(path) << talk.dump();
  TerminalProgram chat({"chat", "-m", tiny_chat_model().string(), "-n", "10", "-t", "2"}, environment_);
  ASSERT_TRUE(chat.wait_for("> ")) << chat.shown();
  chat.answer_prompt("/load " + path + "\n");
  ASSERT_TRUE(chat.wait_for("3 messages from")) << chat.shown();
  chat.answer_prompt("/regen\n");
  ASSERT_TRUE(chat.wait_for("Reading the prompt: ")) << chat.shown();
  chat.type(kCtrlC);
  ASSERT_TRUE(chat.wait_for("Stopped")) << chat.shown();
  chat.answer_prompt("/undo\n");
  EXPECT_TRUE(chat.wait_for("Took back")) << chat.shown();
  chat.answer_prompt("the\n");
  EXPECT_TRUE(chat.wait_for("cached)")) << "what was read before is of use: " << chat.shown();
  chat.send(SIGKILL);
  EXPECT_EQ(chat.wait_for_exit(), 128 + SIGKILL);
  EXPECT_EQ(nlohmann::json::parse(std::ifstream(path)), talk);
}

TEST_F(ChatInTerminal, TerminationAtThePromptRestoresTheTerminal) {
  TerminalProgram chat(arguments_, environment_);
  ASSERT_TRUE(chat.wait_for("> ")) << chat.shown();
  chat.answer_prompt("an unfinished line");
  ASSERT_TRUE(chat.wait_for("unfinished line")) << chat.shown();
  ASSERT_FALSE(chat.gathers_lines());
  chat.send(SIGTERM);
  EXPECT_EQ(chat.wait_for_exit(), 130) << chat.shown();
  EXPECT_TRUE(chat.gathers_lines());
}

TEST_F(ChatInTerminal, SettingsAndSystemMessage) {
  TerminalProgram chat(arguments_, environment_);
  ASSERT_TRUE(chat.wait_for("> "));
  chat.answer_prompt("/set max-tokens 3\n");
  EXPECT_TRUE(chat.wait_for("max-tokens is 3.")) << chat.shown();
  chat.answer_prompt("/set top-p 2\n");
  EXPECT_TRUE(chat.wait_for("error: --top-p")) << chat.shown();
  chat.answer_prompt("/set\n");
  EXPECT_TRUE(chat.wait_for("top-p 0.95")) << chat.shown();
  chat.answer_prompt("/system Be brief.\n");
  EXPECT_TRUE(chat.wait_for("System message: Be brief.")) << chat.shown();
  chat.answer_prompt("the\n");
  EXPECT_TRUE(chat.wait_for("generated 3 tok")) << chat.shown();
  chat.answer_prompt("/exit\n");
  EXPECT_EQ(chat.wait_for_exit(), 0) << chat.shown();
}

TEST_F(ChatInTerminal, SavedConversationGoesOn) {
  const std::string path = (directory_ / "talk").string();
  {
    TerminalProgram chat(arguments_, environment_);
    ASSERT_TRUE(chat.wait_for("> "));
    chat.answer_prompt("the\n");
    ASSERT_TRUE(chat.wait_for(kTiming));
    chat.answer_prompt("/save " + path + "\n");
    ASSERT_TRUE(chat.wait_for("Saved to")) << chat.shown();
    chat.answer_prompt("/exit\n");
    EXPECT_EQ(chat.wait_for_exit(), 0);
  }
  for (const std::string& file : {path, path + ".kv"}) {
    struct stat status {};
    ASSERT_EQ(stat(file.c_str(), &status), 0) << file;
    EXPECT_EQ(status.st_mode & 0777U, 0600U) << file;
  }
  const nlohmann::json saved = nlohmann::json::parse(std::ifstream(path));
  EXPECT_EQ(saved.at("messages").at(0).at("content"), "the");
  EXPECT_EQ(saved.at("messages").at(1).at("role"), "assistant");
  TerminalProgram chat(arguments_, environment_);
  ASSERT_TRUE(chat.wait_for("> "));
  chat.answer_prompt("/load " + path + "\n");
  ASSERT_TRUE(chat.wait_for("2 messages from")) << chat.shown();
  chat.answer_prompt("/regen\n");
  EXPECT_TRUE(chat.wait_for("prompt 5 tok (4 cached)")) << chat.shown();
  chat.answer_prompt("/load " + path + ".kv\n");
  EXPECT_TRUE(chat.wait_for("error: ")) << chat.shown();
}

TEST_F(ChatInTerminal, HistoryIsPrivate) {
  {
    TerminalProgram chat(arguments_, environment_);
    ASSERT_TRUE(chat.wait_for("> "));
    chat.answer_prompt("/set seed 5\n");
    ASSERT_TRUE(chat.wait_for("seed is 5."));
    chat.answer_prompt("/ex\t\n");  // completes to /exit
    EXPECT_EQ(chat.wait_for_exit(), 0) << chat.shown();
  }
  struct stat status {};
  ASSERT_EQ(stat((directory_ / "state/sluice/history").c_str(), &status), 0);
  EXPECT_EQ(status.st_mode & 0777U, 0600U);
  TerminalProgram chat(arguments_, environment_);
  ASSERT_TRUE(chat.wait_for("> "));
  chat.answer_prompt("\x1b[A\x1b[A\n");  // two lines up
  EXPECT_TRUE(chat.wait_for("seed is 5.")) << chat.shown();
}

TEST_F(ChatInTerminal, ColoursHonourTheEnvironment) {
  const auto dims = [&](const Environment& environment) {
    TerminalProgram chat(arguments_, environment);
    const bool started = chat.wait_for("> ");
    EXPECT_TRUE(started) << chat.shown();
    return chat.shown().find("\x1b[2m") != std::string::npos;
  };
  EXPECT_FALSE(dims(environment_));
  environment_[2] = {"NO_COLOR", ""};
  EXPECT_TRUE(dims(environment_));
  environment_[1] = {"TERM", "dumb"};
  EXPECT_FALSE(dims(environment_));
}

}  // namespace
}  // namespace sluice::testing
