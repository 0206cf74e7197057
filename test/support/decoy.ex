defmodule Leash.Test.Decoy do
  @moduledoc "A process that looks like ours and is not. It notes every signal that reaches it."

  alias Leash.Test.{Name, Observer, Python}

  @enforce_keys [:name, :identity, :log]
  defstruct [:name, :identity, :log, :port]

  @type t :: %__MODULE__{
          name: String.t(),
          identity: Observer.identity(),
          log: String.t() | nil,
          port: port() | nil
        }

  # Longer than any suite on any machine. The decoy ends earlier with the calling process, which
  # owns its port.
  @life "7200"

  @doc "The seconds that a decoy lives at most."
  @spec life() :: String.t()
  def life, do: @life

  @doc """
  Starts a decoy and waits until it notes signals.

  Options: `:env` (one `NAME=value`), `:argv` (words after `--`), `:forge` (those words are all
  that `/proc` shows of its arguments), `:pid`, `:uid`, `:locks`.
  """
  @spec start(String.t(), keyword()) :: t()
  def start(name, options \\ []) do
    log = log_path()
    switches = for key <- [:pid, :uid, :locks], value = options[key], do: "--#{key}=#{value}"
    switches = if options[:forge], do: ["--forge" | switches], else: switches
    words = ["--stdin" | switches] ++ ["--" | Keyword.get(options, :argv, [])]
    [python | args] = Python.argv("decoy.py", [log, @life | words])

    env =
      case options[:env] && String.split(options[:env], "=", parts: 2) do
        nil -> []
        [key, value] -> [{to_charlist(key), to_charlist(value)}]
      end

    port =
      Port.open({:spawn_executable, python}, [
        :binary,
        :exit_status,
        line: 200,
        args: args,
        env: env
      ])

    receive do
      {^port, {:data, {:eol, "ready " <> pid}}} ->
        identity = pid |> String.to_integer() |> Observer.identity()
        %__MODULE__{name: name, identity: identity, log: log, port: port}

      {^port, other} ->
        raise "decoy #{inspect(name)} did not start: #{inspect(other)}"
    after
      10_000 -> raise "decoy #{inspect(name)} did not start"
    end
  end

  @doc "Returns a decoy for a process that is already started as one."
  @spec adopt(String.t(), Observer.identity(), String.t() | nil) :: t()
  def adopt(name, identity, log \\ nil),
    do: %__MODULE__{name: name, identity: identity, log: log}

  @doc "Returns a path for the signals of a decoy, which no other process has."
  @spec log_path() :: String.t()
  def log_path, do: Path.join(System.tmp_dir!(), Name.unique("leash-decoy"))

  @doc "Returns the harm that was done to the decoy, or `nil`."
  @spec harm(t()) :: String.t() | nil
  def harm(decoy) do
    {pid, _ticks} = decoy.identity
    signals = signals(decoy.log)

    cond do
      not Observer.alive?(decoy.identity) -> "#{decoy.name} (#{pid}): dead"
      Observer.state(pid) in ["T", "t"] -> "#{decoy.name} (#{pid}): stopped"
      signals != [] -> "#{decoy.name} (#{pid}): got signals #{Enum.join(signals, ", ")}"
      true -> nil
    end
  end

  defp signals(nil), do: []

  defp signals(log) do
    case File.read(log) do
      {:ok, text} -> String.split(text)
      {:error, :enoent} -> ["that removed its log"]
    end
  end

  @doc "Ends a decoy."
  @spec stop(t()) :: :ok
  def stop(decoy) do
    if decoy.port && Port.info(decoy.port), do: Port.close(decoy.port)
    Observer.signal(decoy.identity, "KILL")
    if decoy.log, do: File.rm(decoy.log)
    :ok
  end
end
