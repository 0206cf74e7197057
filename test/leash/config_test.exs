defmodule Leash.ConfigTest do
  # Reads the application's environment, which is the VM's.
  use ExUnit.Case, async: false

  alias Leash.{Config, OptionsError}

  defp load(options) do
    before = for {key, _value} <- options, do: {key, Application.fetch_env(:leash, key)}
    for {key, value} <- options, do: Application.put_env(:leash, key, value)

    try do
      Config.load()
    after
      for {key, value} <- before do
        case value do
          {:ok, value} -> Application.put_env(:leash, key, value)
          :error -> Application.delete_env(:leash, key)
        end
      end
    end
  end

  test "the defaults of the sweep's options are filled in" do
    assert {:ok, %{sweep: [], record: :optional, stop_timeout: 10_000}} = load([])
    assert {:ok, %{sweep: false}} = load(sweep: false)
    assert {:ok, %{sweep: sweep}} = load(sweep: [scope: :app])
    assert sweep[:scope] == :app and sweep[:mode] == :end
  end

  test "a mistake is one sentence that names the nearest key" do
    for {options, message} <- [
          {[runn_dir: "/x"],
           "invalid options: expected one of [:run_dir, :record, :sweep, :cgroup, " <>
             ":stop_timeout, :app, :unsupported_os, :precompiled, :precompiled_sums], " <>
             "got: :runn_dir (did you mean :run_dir?)"},
          {[sweep: [modee: :end]],
           "invalid options in :sweep: expected one of [:mode, :scope, :deadline, :stop], got: " <>
             ":modee (did you mean :mode?)"},
          {[sweep: [mode: :none]],
           "invalid value for :mode option in :sweep: expected :end or :report, got: :none"},
          {[sweep: nil],
           "invalid value for :sweep option: expected options of Leash.sweep/1, such as [scope: :app], or false, got: nil"},
          {[sweep: :off],
           "invalid value for :sweep option: expected options of Leash.sweep/1, such as [scope: :app], or false, got: :off"},
          {[stop_timeout: -1],
           "invalid value for :stop_timeout option: expected a non-negative number of " <>
             "milliseconds, got: -1"}
        ] do
      assert {:error, %OptionsError{} = error} = load(options)
      assert Exception.message(error) == message
    end
  end
end
