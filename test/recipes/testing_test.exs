defmodule Leash.TestingGuideTest do
  # The blocks of guides/testing.md, as tests of this suite.
  use ExUnit.Case, async: true

  alias Leash.Test.Recipe

  # The module of the first block, without its frame.
  [module] = Recipe.blocks("testing", "start_supervised!")
  [_all, body] = Regex.run(~r/async: true\n(.*)end\n/s, module)
  Code.eval_string(body, [], __ENV__)

  [log] = Recipe.blocks("testing", "The log")
  Code.eval_string(log, [], __ENV__)

  test "the list is empty when all is gone" do
    [line] = Recipe.blocks("testing", "What is left")
    assert line == "assert Leash.list() == []\n"
  end
end
