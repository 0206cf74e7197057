defmodule Leash.OperatorTest do
  use Leash.Test.Case, async: true

  alias Leash.Operator

  @tag needs: :operator
  test "the command is installed, and says its version" do
    path = Operator.path()
    assert %File.Stat{type: :regular, mode: mode} = File.stat!(path)
    assert Bitwise.band(mode, 0o111) == 0o111
    version = to_string(Application.spec(:leash, :vsn))
    assert System.cmd(path, ["--version"]) == {"leash #{version} (protocol 1)\n", 0}
  end

  @tag needs: :operator
  test "what it returns is the status, and nothing is left in the mailbox" do
    # Usage errors, which look at nothing, in a VM whose terminal may show them.
    code = """
    Process.flag(:trap_exit, true)
    statuses = [Leash.Operator.run(["top"]), Leash.Operator.kill("not an id"), Leash.Operator.stop("")]
    IO.inspect({statuses, Process.info(self(), :messages)})
    """

    ebin = Application.app_dir(:leash, "ebin")
    {output, 0} = System.cmd("elixir", ["-pa", ebin, "-e", code], stderr_to_stdout: true)
    assert output =~ "leash: top needs a terminal"
    assert output =~ "{[2, 2, 2], {:messages, []}}\n"
  end

  test "what are no arguments is refused, and nothing is run" do
    for wrong <- ["ps", [:ps], ["ps", 1], ["ps", <<"a", 0>>], nil] do
      error = assert_raise Leash.OptionsError, fn -> Operator.run(wrong) end
      assert %{key: :arguments, value: ^wrong, expected: "a list of strings" <> _} = error
    end
  end
end
