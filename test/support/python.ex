defmodule Leash.Test.Python do
  @moduledoc """
  Runs the tests' fixtures, with a Python without site packages and without a wrapper in front.
  """

  @key {__MODULE__, :path}

  @doc """
  Returns the interpreter itself. The first one in `PATH` may be a script that looks for it.
  """
  @spec path() :: String.t()
  def path do
    case :persistent_term.get(@key, nil) do
      nil ->
        {path, 0} = System.cmd("python3", ["-c", "import sys; print(sys.executable)"])
        :persistent_term.put(@key, String.trim(path))
        String.trim(path)

      path ->
        path
    end
  end

  @doc "Returns the argv of a fixture."
  @spec argv(String.t(), [String.t()]) :: [String.t()]
  def argv(fixture, args), do: argv(path(), fixture, args)

  @doc """
  Returns the argv of a fixture for another interpreter, such as one that every user may run.
  """
  @spec argv(String.t(), String.t(), [String.t()]) :: [String.t()]
  def argv(python, fixture, args), do: [python, "-E", "-s", "-S", "-B", fixture(fixture) | args]

  @doc """
  Returns an interpreter that every user may run, or `nil` without one. Other users cannot run a
  user's own.
  """
  @spec public() :: String.t() | nil
  def public do
    may_run? = fn path ->
      setpriv = ~w(--reuid=65534 --regid=65534 --clear-groups #{path} -c pass)
      match?({_, 0}, System.cmd("setpriv", setpriv, stderr_to_stdout: true))
    end

    Enum.find(["/usr/bin/python3", path()], &(File.exists?(&1) and may_run?.(&1)))
  end

  @doc "Returns the path of a fixture."
  @spec fixture(String.t()) :: String.t()
  def fixture(name), do: Path.expand(Path.join("../fixtures", name), __DIR__)

  @doc "Returns words as one line for a shell."
  @spec quote_all([String.t()]) :: String.t()
  def quote_all(words),
    do: Enum.map_join(words, " ", &("'" <> String.replace(&1, "'", "'\\''") <> "'"))
end
