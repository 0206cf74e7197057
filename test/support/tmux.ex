defmodule Leash.Test.Tmux do
  @moduledoc """
  A real terminal: a tmux server of the test's own, whose one pane runs a line of shell.
  """

  alias Leash.Test.Observer

  @enforce_keys [:socket]
  defstruct [:socket]

  @type t :: %__MODULE__{socket: String.t()}

  @doc "Returns a server with its socket in this directory. `open/3` starts it."
  @spec new(String.t()) :: t()
  def new(dir), do: %__MODULE__{socket: Path.join(dir, "tmux")}

  @doc "Opens a pane of so many columns and rows that runs a line and then stays as it is."
  @spec open(t(), String.t(), {pos_integer(), pos_integer()}) :: :ok
  def open(tmux, line, {columns, rows}) do
    size = ["-x", "#{columns}", "-y", "#{rows}"]
    # A server that ended with its last pane might still be ending when the next pane is opened.
    server = ["start-server", ";", "set-option", "-g", "exit-empty", "off", ";"]
    pane = ["new-session", "-d"] ++ size ++ ["sh", "-c", line <> "; exec cat"]
    command(tmux, server ++ pane)
    :ok
  end

  @doc "Returns the screen, a line each, without the empty lines at the end."
  @spec screen(t()) :: [String.t()]
  def screen(tmux), do: tmux |> command(["capture-pane", "-p"]) |> lines()

  @doc """
  Returns the same with the escape sequences that begin its colours. tmux ends colours with
  sequences of its own.
  """
  @spec coloured(t()) :: String.t()
  def coloured(tmux) do
    tmux |> command(["capture-pane", "-p", "-e"]) |> String.replace(~r/\e\[(0|39|49)m/, "")
  end

  defp lines(text), do: text |> String.trim_trailing() |> String.split("\n")

  @doc "Returns values that tmux knows, by its formats (tmux(1))."
  @spec format(t(), String.t()) :: String.t()
  def format(tmux, format),
    do: tmux |> command(["display-message", "-p", format]) |> String.trim_trailing()

  @doc "Types keys."
  @spec keys(t(), [String.t()]) :: :ok
  def keys(tmux, keys) do
    command(tmux, ["send-keys" | keys])
    :ok
  end

  @doc "Changes the size of the terminal, which its programs learn of."
  @spec resize(t(), {pos_integer(), pos_integer()}) :: :ok
  def resize(tmux, {columns, rows}) do
    command(tmux, ["resize-window", "-x", "#{columns}", "-y", "#{rows}"])
    :ok
  end

  @doc "Ends the pane."
  @spec close(t()) :: :ok
  def close(tmux) do
    command(tmux, ["kill-session"])
    :ok
  end

  @doc "Ends the server with everything in it."
  @spec stop(t()) :: :ok
  def stop(%{socket: socket} = tmux) do
    run(tmux, ["kill-server"])
    # The server answers before it has ended.
    Observer.eventually(5_000, fn -> Observer.with_argument(socket) == [] end)
    :ok
  end

  defp command(tmux, arguments) do
    {output, 0} = run(tmux, arguments)
    output
  end

  defp run(%{socket: socket}, arguments) do
    System.cmd("tmux", ["-u", "-S", socket, "-f", "/dev/null" | arguments],
      stderr_to_stdout: true,
      # Inside of another tmux session it would refuse to nest.
      env: [{"TMUX", nil}, {"NO_COLOR", nil}, {"LC_ALL", "C.UTF-8"}]
    )
  end
end
