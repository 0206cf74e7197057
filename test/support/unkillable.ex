defmodule Leash.Test.Unkillable do
  @moduledoc """
  Makes a program run as root, as `sudo` does, for VMs of an ordinary user. Those VMs may not
  signal it.
  """

  import ExUnit.Callbacks

  alias Leash.Test.Name

  @doc """
  Makes a set-user-id copy of setpriv in a directory of its own, and an empty run directory for
  uid 65534. The directory is removed after the test.

  `:root` is the shell's words in front of a command.
  """
  @spec program() :: %{root: String.t(), dir: String.t()}
  def program do
    top = Path.join(System.tmp_dir!(), Name.unique("leash-test"))
    dir = Path.join(top, "run")
    File.mkdir_p!(dir)
    File.chmod!(top, 0o755)
    File.chmod!(dir, 0o700)
    :ok = File.chown(dir, Leash.Test.Narrow.nobody())
    on_exit(fn -> File.rm_rf!(top) end)
    copy = Path.join(top, "setpriv")
    File.cp!(System.find_executable("setpriv"), copy)
    File.chmod!(copy, 0o4755)
    %{root: "#{copy} --reuid=0 --regid=0 --clear-groups", dir: dir}
  end

  @doc "Whether a set-user-id program gets root's rights here."
  @spec possible?() :: boolean()
  def possible? do
    dir = Path.join(System.tmp_dir!(), Name.unique("leash-test"))
    copy = Path.join(dir, "setpriv")

    line =
      "mkdir -m 755 #{dir} && cp $(command -v setpriv) #{copy} && chmod 4755 #{copy} && " <>
        "#{Leash.Test.Narrow.as_nobody()} #{copy} --reuid=0 --regid=0 --clear-groups true"

    works? = match?({_output, 0}, System.cmd("sh", ["-c", line], stderr_to_stdout: true))
    File.rm_rf!(dir)
    works?
  end
end
