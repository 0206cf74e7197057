defmodule Leash.Test.Script do
  @moduledoc """
  A program beside the workers, started by a bare port: a shim by hand, a helper in Python.
  """

  alias Leash.Test.{Carrier, Observer}

  @doc """
  Runs a line of shell in a carrier and waits for its `ready` line. Returns its identity and the
  words after `ready`.
  """
  @spec start(String.t(), Carrier.t(), [{String.t(), String.t()}]) ::
          {port(), Observer.identity(), [String.t()]}
  def start(line, carrier, env \\ []) do
    port =
      Port.open({:spawn_executable, "/bin/sh"}, [
        :binary,
        :exit_status,
        {:line, 4_096},
        args: ["-c", Carrier.enter(carrier) <> line],
        env: for({key, value} <- env, do: {to_charlist(key), to_charlist(value)})
      ])

    {:os_pid, pid} = Port.info(port, :os_pid)
    identity = Observer.identity(pid)
    {port, identity, await_ready(port)}
  end

  defp await_ready(port) do
    receive do
      {^port, {:data, {:eol, "ready" <> words}}} -> String.split(words)
      {^port, {:data, _other}} -> await_ready(port)
      {^port, {:exit_status, status}} -> raise "the script ended with #{status}"
    after
      60_000 -> raise "the script was not ready"
    end
  end

  @doc "Waits for its exit status."
  @spec await_exit(port(), non_neg_integer()) :: non_neg_integer()
  def await_exit(port, ms) do
    receive do
      {^port, {:exit_status, status}} -> status
    after
      ms -> raise "the script goes on"
    end
  end

  @doc "Returns the shim, for use by hand."
  @spec shim() :: String.t()
  def shim, do: Application.app_dir(:leash, "priv/leash-shim")
end
